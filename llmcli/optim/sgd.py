"""Stochastic gradient descent, with classical (Polyak 1964) or Nesterov (1983) momentum."""

from __future__ import annotations

import torch
from torch import nn

from llmcli.errors import InputError
from llmcli.optim.groups import can_fuse, decay_groups, finish


def sgd(
    module: nn.Module, *, lr: float, momentum: float, nesterov: bool, weight_decay: float, l1: float
) -> torch.optim.SGD:
    """momentum 0 is plain SGD; nesterov evaluates the gradient one momentum step ahead.

    Raises InputError for nesterov without momentum.
    """
    if nesterov and momentum <= 0:
        raise InputError(
            f"optimizer.nesterov needs momentum above 0, got {momentum}", hint="set optimizer.momentum=0.9"
        )
    groups = decay_groups(module, lr=lr, weight_decay=weight_decay, l1=l1)
    return finish(torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=can_fuse(groups)))
