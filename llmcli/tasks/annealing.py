"""How much the KL term of a VAE counts while training goes on (Bowman et al. 2016; Fu et al. 2019)."""

from __future__ import annotations

import math
from typing import Literal, get_args

from llmcli.errors import InputError

Shape = Literal["linear", "sigmoid", "cyclical"]
_STEEP = 12.0  # how far apart in the logistic function's argument `start` and `end` are: from 0.0025 to 0.9975


class Annealing:
    """The consumed share of the budget in [0, 1] -> the weight of the KL term, in [0, weight].

    0 up to `start`, `weight` from `end` on, and between them on a straight line ("linear") or an S ("sigmoid"), or
    `cycles` times the same: on a straight line through the first half of a cycle, then at `weight` ("cyclical").

    Raises InputError for values out of range.
    """

    def __init__(self, *, shape: Shape, start: float, end: float, weight: float, cycles: int) -> None:
        if shape not in get_args(Shape):
            raise InputError(f"task.kl.shape ({shape}) must be one of {', '.join(get_args(Shape))}")
        if not 0 <= start <= end <= 1:
            raise InputError(
                f"task.kl.start ({start}) and task.kl.end ({end}) are shares of the budget and must rise from 0 to 1"
            )
        if not (weight >= 0 and math.isfinite(weight)):
            raise InputError(f"task.kl.weight ({weight}) must be at least 0")
        if cycles < 1:
            raise InputError(f"task.kl.cycles ({cycles}) must be at least 1")
        self.shape, self.start, self.end, self.weight, self.cycles = shape, start, end, weight, cycles

    def __call__(self, progress: float) -> float:
        if progress >= self.end:
            return self.weight
        if progress <= self.start:
            return 0.0
        place = (progress - self.start) / (self.end - self.start)
        if self.shape == "cyclical":
            place = min(1.0, 2 * (place * self.cycles % 1))
        elif self.shape == "sigmoid":
            lowest = _logistic(-_STEEP / 2)
            place = (_logistic(_STEEP * (place - 0.5)) - lowest) / (1 - 2 * lowest)
        return self.weight * place


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))
