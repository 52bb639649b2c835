"""Adagrad: per-weight rates that shrink with the sum of squared gradients (Duchi et al. 2011)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.errors import InputError
from llmcli.optim.groups import decay_groups, finish


def adagrad(module: nn.Module, *, lr: float, initial_accumulator: float, weight_decay: float, l1: float) -> Optimizer:
    """`initial_accumulator` is where each sum starts: larger values damp the first steps.

    For a module with sparse look-up tables it updates only the rows that a batch has touched. Raises InputError for
    weight decay or L1 there, which would touch all.
    """
    groups = decay_groups(module, lr=lr, weight_decay=weight_decay, l1=l1)
    if any(isinstance(each, nn.Embedding | nn.EmbeddingBag) and each.sparse for each in module.modules()):
        if weight_decay or l1:
            raise InputError(
                f"optimizer.weight_decay ({weight_decay}) and l1 ({l1}) must be 0 with sparse gradients",
                "model.sparse=false updates every row at every step, slowly",
            )
        return SparseAdagrad(groups, initial_accumulator=initial_accumulator)
    return finish(torch.optim.Adagrad(groups, lr=lr, initial_accumulator_value=initial_accumulator))


class SparseAdagrad(Optimizer):
    """The numbers of torch.optim.Adagrad, from the rows that have a gradient alone; dense gradients work too.

    torch's own builds a sparse tensor for each of its intermediate results, which takes longer than the rest.
    """

    def __init__(self, groups: list[dict[str, Any]], *, initial_accumulator: float, eps: float = 1e-10) -> None:
        if initial_accumulator < 0:
            raise InputError(f"optimizer.initial_accumulator ({initial_accumulator}) must be at least 0")
        super().__init__(groups, {"eps": eps})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["sum"] = torch.full_like(parameter, initial_accumulator)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, self.state[parameter]["sum"], lr=group["lr"], eps=group["eps"])
        return loss


def _update(parameter: Tensor, total: Tensor, *, lr: float, eps: float) -> None:
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_sparse:
        total.addcmul_(gradient, gradient)
        parameter.addcdiv_(gradient, total.sqrt().add_(eps), value=-lr)
        return
    # what coalesce() does, in half its time
    rows, places = torch.unique(gradient._indices()[0], return_inverse=True)
    parts = gradient._values()
    values = parts.new_zeros(len(rows), *parts.shape[1:]).index_add_(0, places, parts)
    squares = total.index_select(0, rows).addcmul_(values, values)  # (rows, D)
    total.index_copy_(0, rows, squares)
    parameter.index_add_(0, rows, values.div(squares.sqrt_().add_(eps)), alpha=-lr)
