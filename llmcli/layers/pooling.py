"""One vector for a sequence of hidden states.

Shapes: B batch, T time, D width, W width of the result.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from llmcli.errors import InputError

How = Literal["max", "mean", "first", "last", "attention", "concat"]


class Pooling(nn.Module):
    """hidden (B, T, D), mask (B, T) bool or None -> (B, W), W = `width`: D, for "concat" 3 D.

    how: "max" and "mean" over the real tokens; "first" (a <cls> token) and "last" real token; "attention": the mean
    weighted by a learnt score of each token (additive attention of Bahdanau et al. 2015 with a learnt query, as in
    Yang et al. 2016); "concat": last, maximum and mean side by side (Howard & Ruder 2018).
    """

    def __init__(self, how: How, d_model: int) -> None:
        super().__init__()
        if how not in get_args(How):
            raise InputError(f"pooling ({how}) must be one of {', '.join(get_args(How))}")
        self.how = how
        self.width = 3 * d_model if how == "concat" else d_model
        self.score = None
        if how == "attention":
            self.score = nn.Sequential(nn.Linear(d_model, d_model), nn.Tanh(), nn.Linear(d_model, 1, bias=False))

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.how == "concat":
            return torch.cat([_last(hidden, mask), _max(hidden, mask), _mean(hidden, mask)], dim=-1)  # (B, 3 D)
        if self.how == "first":
            return hidden[:, 0]
        if self.how == "last":
            return _last(hidden, mask)
        if self.how == "max":
            return _max(hidden, mask)
        if self.score is None:
            return _mean(hidden, mask)
        scores = self.score(hidden).squeeze(-1).float()  # (B, T)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return torch.einsum("bt,btd->bd", scores.softmax(1).to(hidden.dtype), hidden)


def _last(hidden: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return hidden[:, -1]
    place = torch.arange(hidden.size(1), device=hidden.device)
    return hidden[torch.arange(hidden.size(0), device=hidden.device), (mask * place).argmax(1)]


def _max(hidden: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        hidden = hidden.masked_fill(~mask.unsqueeze(-1), torch.finfo(hidden.dtype).min)
    return hidden.amax(1)


def _mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return hidden.mean(1)
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(1) / weights.sum(1)
