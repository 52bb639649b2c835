"""Attention of a recurrent decoder to its source: additive (Bahdanau et al. 2015) or bilinear (Luong et al. 2015).

Shapes: N sources, G rows of each, B = N G rows, S source tokens, D model width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

from llmcli.layers.source_cache import families

Score = Literal["bahdanau", "luong"]


@dataclass(frozen=True)
class Sources:
    """What is looked at: hidden and keys (N, S, D), mask (N, S) bool or None.

    Rows b G ... b G + G - 1 look at source b, so that no beam has a copy of it; rows_each: G.
    """

    hidden: Tensor
    keys: Tensor
    mask: Tensor | None
    rows_each: int = 1

    def reorder(self, index: Tensor) -> Self:
        """Rows picked by `index` (B',), as `SourceCache.reorder`."""
        sources, each = families(index, self.rows_each, len(self.hidden))
        if sources is None:
            return replace(self, rows_each=each)
        mask = None if self.mask is None else self.mask[sources]
        return replace(self, hidden=self.hidden[sources], keys=self.keys[sources], mask=mask, rows_each=each)

    def shown(self, weights: Tensor) -> Tensor:
        """weights (B, H, T, S) -> float32, above 0 at every source token, which softmax alone does not promise."""
        weights = weights.float().clamp(min=torch.finfo(torch.float32).tiny)
        if self.mask is None:
            return weights
        return weights.masked_fill(~self.mask.repeat_interleave(self.rows_each, 0)[:, None, None], 0.0)

    def detach(self) -> Self:
        return replace(self, hidden=self.hidden.detach(), keys=self.keys.detach())


class SourceAttention(nn.Module):
    """query (B, D) -> context (B, D), the mean of the source's hidden states by softmax(score), and the weights (B, S).

    score: v . tanh(W_q query + W_k hidden + b), or query . W_k hidden.
    """

    def __init__(self, *, d_model: int, score: Score) -> None:
        super().__init__()
        self.key = nn.Linear(d_model, d_model, bias=score == "bahdanau")
        self.query = nn.Linear(d_model, d_model, bias=False) if score == "bahdanau" else None
        self.energy = nn.Linear(d_model, 1, bias=False) if score == "bahdanau" else None

    def sources(self, hidden: Tensor, mask: Tensor | None) -> Sources:
        """hidden (N, S, D), mask (N, S): what does not depend on the query is computed here, once."""
        return Sources(hidden, self.key(hidden), mask)

    def forward(self, query: Tensor, sources: Sources) -> tuple[Tensor, Tensor]:
        queries = query.view(-1, sources.rows_each, query.size(1))  # (N, G, D)
        if self.query is not None and self.energy is not None:
            energies = torch.tanh(self.query(queries)[:, :, None] + sources.keys[:, None])  # (N, G, S, D)
            scores = cast("Tensor", self.energy(energies))[..., 0]
        else:
            scores = queries @ sources.keys.mT  # (N, G, S)
        scores = scores.float()
        if sources.mask is not None:
            scores = scores.masked_fill(~sources.mask[:, None], -math.inf)
        weights = scores.softmax(dim=2)
        return (weights.to(sources.hidden.dtype) @ sources.hidden).flatten(0, 1), weights.flatten(0, 1)
