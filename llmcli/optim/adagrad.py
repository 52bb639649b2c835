"""Adagrad: per-weight rates that shrink with the sum of squared gradients (Duchi et al. 2011)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.errors import InputError
from llmcli.optim.groups import decay_groups, finish
from llmcli.optim.sparse import has_sparse_tables, refuse_decay_of_sparse, touched_rows


def adagrad(
    module: nn.Module, *, lr: float, initial_accumulator: float, per_row: bool, weight_decay: float, l1: float
) -> Optimizer:
    """`initial_accumulator` is where each sum starts: larger values damp the first steps.

    per_row: one sum, of the mean squares of its gradients, for each row of a matrix, and one for a vector: steps keep
    the direction of the gradient, as in PyTorch-BigGraph (Lerer et al. 2019). For a module with sparse look-up tables
    only the rows that a batch has touched are updated. Raises InputError for weight decay or L1 there, which would
    touch all, and for weight decay per row.
    """
    groups = decay_groups(module, lr=lr, weight_decay=weight_decay, l1=l1)
    sparse = has_sparse_tables(module)
    if sparse:
        refuse_decay_of_sparse(weight_decay=weight_decay, l1=l1)
    if per_row and weight_decay:
        raise InputError(f"optimizer.weight_decay ({weight_decay}) must be 0 with optimizer.per_row")
    if sparse or per_row:
        return finish(SparseAdagrad(groups, initial_accumulator=initial_accumulator, per_row=per_row))
    return finish(torch.optim.Adagrad(groups, lr=lr, initial_accumulator_value=initial_accumulator))


class SparseAdagrad(Optimizer):
    """The numbers of torch.optim.Adagrad, from the rows that have a gradient alone; dense gradients work too.

    torch's own builds a sparse tensor for each of its intermediate results, which takes longer than the rest. per_row:
    one sum for each row.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, initial_accumulator: float, per_row: bool, eps: float = 1e-10
    ) -> None:
        if initial_accumulator < 0:
            raise InputError(f"optimizer.initial_accumulator ({initial_accumulator}) must be at least 0")
        super().__init__(groups, {"eps": eps})
        for group in self.param_groups:
            for parameter in group["params"]:
                total = torch.full_like(_squares(parameter.detach(), per_row), initial_accumulator)
                self.state[parameter]["sum"] = total
        self._per_row = per_row

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, self.state[parameter]["sum"], lr=group["lr"], eps=group["eps"])
        return loss

    def _update(self, parameter: Tensor, total: Tensor, *, lr: float, eps: float) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if not gradient.is_sparse:
            total.add_(_squares(gradient, self._per_row))
            parameter.addcdiv_(gradient, total.sqrt().add_(eps), value=-lr)
            return
        rows, values = touched_rows(gradient)
        sums = total.index_select(0, rows).add_(_squares(values, self._per_row))
        total.index_copy_(0, rows, sums)
        parameter.index_add_(0, rows, values.div_(sums.sqrt_().add_(eps)), alpha=-lr)


def _squares(values: Tensor, per_row: bool) -> Tensor:
    """The squares of a gradient, or for each row their mean: (R, D) -> (R, D) or (R, 1); of a vector (D,) -> (1,)."""
    return values.square().mean(-1, keepdim=True) if per_row else values.square()
