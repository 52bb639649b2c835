"""Where a span of a sequence starts and ends (Devlin et al. 2019): a head, its loss, and the search for the best spans.

Shapes: B rows, T time, D width, L longest span, K spans found.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.models.base import check_rates


class Spans(NamedTuple):
    """The best spans of each row, best first: scores, starts and ends (the place of the last token), (B, K) each.

    A score is how much more a span is worth than none, in nats; -inf where a row has no further span.
    """

    scores: Tensor
    starts: Tensor
    ends: Tensor


class SpanHead(nn.Module):
    """hidden (B, T, D), inside (B, T) bool -> logits of start and end (B, T, 2), float32: dropout, one linear layer.

    A span lies inside; "none" is the span from place 0 to place 0. Elsewhere logits are -inf.
    """

    def __init__(self, *, d_model: int, dropout: float) -> None:
        super().__init__()
        check_rates(dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_model, 2)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor, inside: Tensor) -> Tensor:
        logits = cast(Tensor, self.linear(self.dropout(hidden)))
        possible = inside.clone()
        possible[:, 0] = True
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.masked_fill(~possible.unsqueeze(2), -torch.inf)


def span_loss(logits: Tensor, places: Tensor) -> Tensor:
    """logits (B, T, 2), places (B, 2) of start and end -> the mean of their two cross-entropies in nats, (B,)."""
    return F.cross_entropy(logits, places, reduction="none").mean(1)


@torch.no_grad()
def best_spans(logits: Tensor, *, longest: int, top: int) -> Spans:
    """logits (B, T, 2) -> of the spans of at most `longest` tokens the `top` best; there may be fewer."""
    start, end = logits.unbind(2)  # (B, T)
    none = start[:, 0] + end[:, 0]
    longest = min(longest, logits.size(1))
    ends = F.pad(end, (0, longest - 1), value=-torch.inf).unfold(1, longest, 1)  # (B, T, L): from each place on
    scores = (start - none.unsqueeze(1)).unsqueeze(2) + ends  # (B, T, L)
    scores[:, 0] = -torch.inf
    found, places = scores.flatten(1).topk(min(top, scores[0].numel()), dim=1)  # (B, K)
    starts = places // longest
    return Spans(found, starts, (starts + places % longest).clamp(max=logits.size(1) - 1))
