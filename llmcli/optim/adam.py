"""Adam: running means of the gradient and of its square (Kingma & Ba 2015)."""

from __future__ import annotations

import torch
from torch import nn

from llmcli.optim.groups import can_fuse, decay_groups, finish


def adam(
    module: nn.Module, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, l1: float
) -> torch.optim.Adam:
    """weight_decay is the L2 penalty of the original, added to the gradient; adamw has the decoupled one."""
    groups = decay_groups(module, lr=lr, weight_decay=weight_decay, l1=l1)
    beta1, beta2 = betas  # YAML gives a list
    return finish(torch.optim.Adam(groups, lr=lr, betas=(beta1, beta2), eps=eps, fused=can_fuse(groups)))
