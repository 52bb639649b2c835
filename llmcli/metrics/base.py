"""The contract of a metric: one figure of a split, from sums over its batches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor


class Metric(ABC):
    """One figure. Batches of any size on any number of processes add up, since it is made of sums alone.

    name: of the figure, and with `val_` before it of what a task can monitor. sums: the names of the sums that it is
    made of, of those in a batch's `StepResult` (`loss` in nats and `n`, its targets, are always there). shapes: of
    those sums that are no single number, so that a process without a batch knows them too.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    sums: ClassVar[tuple[str, ...]]

    def __init__(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> None:
        self.shapes = shapes or {}
        self.reset()

    def reset(self) -> None:
        self._totals: dict[str, Tensor | float] = {}

    def update(self, sums: Mapping[str, Tensor | float]) -> None:
        """Add sums of a batch. A tensor stays on its device, in double precision where that has it: no host sync."""
        for name in self.sums:
            if name in sums:
                value = sums[name]
                if isinstance(value, Tensor):
                    value = value.float() if value.device.type == "mps" else value.double()
                self._totals[name] = self._totals.get(name, 0.0) + value

    def reduce(self, add_up: Callable[[Tensor], Tensor]) -> None:
        """Take the sums of all processes together; `add_up` adds a tensor (N,) over them.

        Every process calls it once, also one that had no batch.
        """
        known = torch.tensor([float(name in self._totals) for name in self.sums], dtype=torch.float64)
        parts = [self._total(name).flatten() for name in self.sums]
        added = add_up(torch.cat([*parts, known])).cpu()
        *totals, known = torch.split(added, [*map(len, parts), len(known)])
        self._totals = {
            name: total.view(self.shapes.get(name, ()))
            for name, total, anywhere in zip(self.sums, totals, known.tolist(), strict=True)
            if anywhere
        }

    def compute(self) -> float | None:
        """The figure of all sums since `reset`; None where one of them never came, and where they count nothing."""
        if not all(name in self._totals for name in self.sums):
            return None
        totals = {name: self._total(name).cpu() for name in self._totals}
        found = self.figure({name: total if total.ndim else float(total) for name, total in totals.items()})
        counted = all(bool(total.isfinite().all()) for total in totals.values())
        return None if math.isnan(found) and counted else found

    def _total(self, name: str) -> Tensor:
        value = self._totals.get(name, 0.0)
        return torch.as_tensor(value, dtype=torch.float64).expand(self.shapes.get(name, ()))

    @abstractmethod
    def figure(self, totals: Mapping[str, Any]) -> float:
        """The figure that follows from the totals of `sums`: floats, and tensors of those with a shape; nan of none."""


class Mean(Metric):
    """A sum over what another sum counts: `sums` names the two."""

    def figure(self, totals: Mapping[str, Any]) -> float:
        total, count = (float(totals[name]) for name in self.sums)
        return total / count if count else math.nan
