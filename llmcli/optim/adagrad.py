"""Adagrad: per-weight rates that shrink with the sum of squared gradients (Duchi et al. 2011)."""

from __future__ import annotations

import torch
from torch import nn

from llmcli.optim.groups import decay_groups, finish


def adagrad(
    module: nn.Module, *, lr: float, initial_accumulator: float, weight_decay: float, l1: float
) -> torch.optim.Adagrad:
    """`initial_accumulator` is where each sum starts: larger values damp the first steps."""
    groups = decay_groups(module, lr=lr, weight_decay=weight_decay, l1=l1)
    return finish(torch.optim.Adagrad(groups, lr=lr, initial_accumulator_value=initial_accumulator))
