"""AdamW: Adam with weight decay kept out of the gradient (Loshchilov & Hutter 2019)."""

from __future__ import annotations

import torch
from torch import nn

from llmcli.optim.groups import can_fuse, decay_groups, finish


def adamw(
    module: nn.Module, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, l1: float
) -> torch.optim.AdamW:
    """Each step multiplies matrices by 1 - lr * weight_decay; norms and biases are left alone."""
    groups = decay_groups(module, lr=lr, weight_decay=weight_decay, l1=l1)
    beta1, beta2 = betas  # YAML gives a list
    return finish(torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps, fused=can_fuse(groups)))
