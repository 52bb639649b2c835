"""Clocks, medians with their spread, and turns: what every measurement of the bench is made with."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

T = TypeVar("T")
ClockName = Literal["wall", "cpu"]
CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
BUSY_LOAD = 0.5  # of the cores, before anything is measured
WIDE_SPREAD = 0.25  # of the median, between the slowest and the fastest round


class Stopwatch:
    """Seconds of a clock, read once the device has done what it was given. "cpu": of this process's threads alone."""

    def __init__(self, clock: ClockName, device: torch.device) -> None:
        self._clock, self._device = CLOCKS[clock], device

    def __call__(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        return self._clock()


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of a figure over the rounds, between the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    @property
    def relative(self) -> float:
        """(high - low) / median."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def plain(self) -> dict[str, float]:
        return {"median": self.median, "min": self.low, "max": self.high}

    def show(self, pattern: str = "{:,.0f}", scale: float = 1.0) -> str:
        """ "1,234 (1,200-1,250)", each number times `scale` in this pattern."""
        median, low, high = (pattern.format(scale * value) for value in (self.median, self.low, self.high))
        return median if low == high else f"{median} ({low}-{high})"


def in_turns(sides: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each side gives in each round: A B A B, so that a slower minute of the machine slows them alike."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
    return found


def repeated(work: Callable[[], object], watch: Stopwatch, *, at_least: float) -> float:
    """Seconds of one call, as the mean of as many as take `at_least` seconds, after one that is not counted."""
    work()
    calls, began = 0, watch()
    while True:
        work()
        calls += 1
        if (taken := watch() - began) >= at_least:
            return taken / calls


def load() -> tuple[float, int]:
    """How many processes wanted to run in the last minute, and on how many cores."""
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return average, os.cpu_count() or 1


def busy() -> str | None:
    """What to tell a user whose machine does other work already, None where it rests."""
    average, cores = load()
    if average <= BUSY_LOAD * cores:
        return None
    return (
        f"the machine is busy (load average {average:.1f} on {cores} cores): figures are too low; clock=cpu counts the "
        "time of this process alone"
    )


def unsteady(figures: Mapping[str, Spread]) -> str | None:
    """What to tell a user whose rounds differ widely, by the figure that differs most; None where none does."""
    name, widest = max(figures.items(), key=lambda each: each[1].relative, default=("", Spread(0.0, 0.0, 0.0)))
    if widest.relative <= WIDE_SPREAD:
        return None
    return (
        f"{name} varied by {widest.relative:.0%} from round to round: something else used the machine; rounds=7 or a "
        "quieter hour gives a steadier median"
    )
