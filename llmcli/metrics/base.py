"""The contract of a metric: one figure of a split, from sums over its batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor


class Metric(ABC):
    """One figure. Batches of any size on any number of processes add up, since it is made of sums alone.

    name: of the figure, and with `val_` before it of what a task can monitor. sums: the names of the sums that it is
    made of, of those in a batch's `StepResult` (`loss` in nats and `n`, its targets, are always there).
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    sums: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
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
        """Take the sums of all processes together; `add_up` adds a tensor (sums, 2) over them.

        Every process calls it once, also one that had no batch.
        """
        mine = [[float(self._totals.get(name, 0.0)), float(name in self._totals)] for name in self.sums]
        everybodys = add_up(torch.tensor(mine, dtype=torch.float64)).tolist()
        self._totals = {name: total for name, (total, known) in zip(self.sums, everybodys, strict=True) if known}

    def compute(self) -> float | None:
        """The figure of all sums since `reset`; None where one of them never came."""
        if not all(name in self._totals for name in self.sums):
            return None
        return self.figure({name: float(total) for name, total in self._totals.items()})

    @abstractmethod
    def figure(self, totals: Mapping[str, float]) -> float:
        """The figure that follows from the totals of `sums`."""
