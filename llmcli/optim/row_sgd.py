"""Stochastic gradient descent in which no row of a matrix moves further than a limit in one step.

Word2vec's batches sum the gradients of all occurrences of a word, where word2vec.c moves after each and so sees at the
next where it has got to. For the most frequent words the sum would overshoot; for all others it is what word2vec.c
does. The limit holds back the former and leaves the latter alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.errors import InputError
from llmcli.optim.groups import decay_groups, finish
from llmcli.optim.sparse import has_sparse_tables, refuse_decay_of_sparse, touched_rows


def row_sgd(module: nn.Module, *, lr: float, max_step: float, weight_decay: float, l1: float) -> Optimizer:
    """max_step: the Euclidean length of the longest step of a row, or of a vector.

    For a module with sparse look-up tables only the rows that a batch has touched are updated. Raises InputError for
    weight decay or L1 there, which would touch all, and for a limit that is not above 0.
    """
    if has_sparse_tables(module):
        refuse_decay_of_sparse(weight_decay=weight_decay, l1=l1)
    return finish(RowSGD(decay_groups(module, lr=lr, weight_decay=weight_decay, l1=l1), max_step=max_step))


class RowSGD(Optimizer):
    """W <- W - s, s = lr (g + weight_decay W), each row of s shortened to `max_step` where it is longer."""

    def __init__(self, groups: list[dict[str, Any]], *, max_step: float) -> None:
        if max_step <= 0:
            raise InputError(f"optimizer.max_step ({max_step}) must be above 0")
        super().__init__(groups, {"max_step": max_step})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.is_sparse:
                    rows, values = touched_rows(gradient)
                    parameter.index_add_(0, rows, _limited(values.mul_(group["lr"]), group["max_step"]), alpha=-1)
                else:
                    step = gradient.add(parameter, alpha=group["weight_decay"]).mul_(group["lr"])
                    parameter.sub_(_limited(step, group["max_step"]))
        return loss


def _limited(steps: Tensor, limit: float) -> Tensor:
    """(R, D) -> (R, D), or a vector (D,) -> (D,): each row at most `limit` long, in place."""
    return steps.mul_((limit / steps.norm(dim=-1, keepdim=True)).clamp_(max=1.0))  # of no step: limit / 0, so 1
