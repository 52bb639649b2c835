"""Scheduled sampling: in training the model reads some of its own tokens in place of the right ones.

Shapes: B rows, T target tokens.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from llmcli.errors import InputError

Schedule = Literal["constant", "linear", "inverse_sigmoid"]
# k of Bengio et al.'s share of right tokens, k / (k + exp(i / k)), with i from 0 to 100 over the budget: the one for
# which half of the budget is where right and own tokens are as many.
HALFWAY = 17.477


class ScheduledSampling:
    """share: of the target tokens, so many are the model's own when the budget ends (Bengio et al. 2015). schedule: of
    that share, how much at a `progress` in [0, 1] of the budget.

    Raises InputError for a share outside [0, 1] and an unknown schedule.
    """

    def __init__(self, *, share: float, schedule: Schedule) -> None:
        if not 0 <= share <= 1:
            raise InputError(f"task.scheduled_sampling ({share}) must be in [0, 1], a share of the target tokens")
        if schedule not in get_args(Schedule):
            raise InputError(f"task.sampling_schedule ({schedule}) must be one of {', '.join(get_args(Schedule))}")
        self.share, self.schedule = share, schedule

    def rate(self, progress: float) -> float:
        """The share of own tokens now."""
        if self.schedule == "constant":
            return self.share
        if self.schedule == "linear":
            return self.share * progress
        return self.share * (1 - HALFWAY / (HALFWAY + math.exp(100 * progress / HALFWAY)))


def drawn(given: Tensor, labels: Tensor, rate: float) -> Tensor:
    """given (B, T), what is read, and labels (B, T), what follows -> (B, T - 1) bool: at t, whether the model's own
    token for t is read at t + 1. Never beyond the target, nor in a source before it."""
    return (given[:, 1:] == labels[:, :-1]) & (torch.rand(labels[:, 1:].shape, device=labels.device) < rate)
