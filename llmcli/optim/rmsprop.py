"""RMSprop: rates divided by a running root mean square of the gradient (Tieleman & Hinton 2012)."""

from __future__ import annotations

import torch
from torch import nn

from llmcli.optim.groups import decay_groups, finish


def rmsprop(
    module: nn.Module,
    *,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    centered: bool,
    weight_decay: float,
    l1: float,
) -> torch.optim.RMSprop:
    """alpha: decay of the running mean of squares; centered: divide by the standard deviation instead."""
    groups = decay_groups(module, lr=lr, weight_decay=weight_decay, l1=l1)
    return finish(torch.optim.RMSprop(groups, lr=lr, alpha=alpha, eps=eps, momentum=momentum, centered=centered))
