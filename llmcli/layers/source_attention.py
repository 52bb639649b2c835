"""Attention of a recurrent decoder to its source: additive (Bahdanau et al. 2015) or bilinear (Luong et al. 2015).

Shapes: B rows, S source tokens, D model width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

Score = Literal["bahdanau", "luong"]


@dataclass(frozen=True)
class Sources:
    """What is looked at: hidden and keys (B, S, D), mask (B, S) bool or None; which (B,): the source of each row."""

    hidden: Tensor
    keys: Tensor
    mask: Tensor | None
    which: Tensor

    def reorder(self, index: Tensor) -> Self:
        """Rows picked by `index`; nothing is copied where each row keeps its source, as in a beam search."""
        which = self.which[index]
        if torch.equal(which, self.which):
            return self
        mask = None if self.mask is None else self.mask[index]
        return replace(self, hidden=self.hidden[index], keys=self.keys[index], mask=mask, which=which)

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
        """hidden (B, S, D), mask (B, S): what does not depend on the query is computed here, once."""
        return Sources(hidden, self.key(hidden), mask, torch.arange(len(hidden), device=hidden.device))

    def forward(self, query: Tensor, sources: Sources) -> tuple[Tensor, Tensor]:
        if self.query is not None and self.energy is not None:
            scores = cast("Tensor", self.energy(torch.tanh(self.query(query)[:, None] + sources.keys)))[:, :, 0]
        else:
            scores = (sources.keys @ query[:, :, None])[:, :, 0]  # (B, S)
        scores = scores.float()
        if sources.mask is not None:
            scores = scores.masked_fill(~sources.mask, -math.inf)
        weights = scores.softmax(dim=1)
        return (weights.to(sources.hidden.dtype)[:, None] @ sources.hidden)[:, 0], weights
