"""Muon for hidden matrices and AdamW for everything else, in one torch Optimizer.

Muon (Jordan et al. 2024) replaces each matrix's momentum by the nearest semi-orthogonal matrix, found with
a few Newton-Schulz iterations in bfloat16. Embeddings, output heads, norms and biases, and weights that are
not matrices (convolutions) keep AdamW. One optimizer, because automatic optimisation, clipping,
accumulation and checkpoints of Lightning work with one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as functional_adamw

from llmcli.errors import InputError
from llmcli.optim.groups import Group, finish, group, roles

# Quintic iteration of Jordan et al.: steep at 0, so small singular values reach about 1 in five steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# Measured on CPU: one batched product beats a loop over matrices up to this size, and gains nothing above it.
LARGEST_BATCHED = 256


def muon(
    module: nn.Module,
    *,
    lr: float,
    embedding_lr: float,
    head_lr: float,
    vector_lr: float,
    momentum: float,
    momentum_start: float,
    momentum_warmup: int,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    l1: float,
) -> MuonAdamW:
    """Rates by role: `lr` for hidden matrices (Muon), the rest AdamW; `vector_lr` also for convolutions.

    momentum rises linearly from `momentum_start` over the first `momentum_warmup` steps. Weight decay is
    decoupled and, like L1, for matrices only. Raises InputError for a momentum or beta outside [0, 1).
    """
    for name, value in {"momentum": momentum, "momentum_start": momentum_start, "beta": max(betas)}.items():
        if not 0 <= value < 1:
            raise InputError(f"optimizer: {name} ({value}) must be at least 0 and below 1")
    if momentum_warmup < 0:
        raise InputError(f"optimizer: momentum_warmup ({momentum_warmup}) must be at least 0")
    found = roles(module)
    adam: dict[str, Any] = {"betas": (betas[0], betas[1]), "eps": eps}
    kernels = [weight for weight in found.hidden_matrices if weight.ndim > 2]
    hidden = [weight for weight in found.hidden_matrices if weight.ndim == 2]
    groups = [
        group(
            hidden,
            lr=lr,
            weight_decay=weight_decay,
            l1=l1,
            rule="muon",
            momentum=momentum,
            momentum_start=momentum_start,
            momentum_warmup=momentum_warmup,
            steps=0,
        ),
        group(found.embeddings, lr=embedding_lr, weight_decay=weight_decay, l1=l1, rule="adamw", **adam),
        group(found.heads, lr=head_lr, weight_decay=weight_decay, l1=l1, rule="adamw", **adam),
        group(kernels, lr=vector_lr, weight_decay=weight_decay, l1=l1, rule="adamw", **adam),
        group(found.vectors, lr=vector_lr, weight_decay=0.0, l1=0.0, rule="adamw", **adam),
    ]
    return finish(MuonAdamW([one for one in groups if one["params"]]))


class MuonAdamW(torch.optim.Optimizer):
    """Each group says its `rule`, "muon" or "adamw", and carries its settings as plain values."""

    def __init__(self, groups: list[Group]) -> None:
        # "fused" is read by Optimizer.load_state_dict: it keeps step counters on the device of their weights.
        super().__init__(groups, {"fused": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self.param_groups:
            if one["rule"] == "muon":
                self._muon(one)
            else:
                self._adamw(one)
        return loss

    def _adamw(self, one: Group) -> None:
        weights = [weight for weight in one["params"] if weight.grad is not None]
        if not weights:
            return
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        states = [self.state[weight] for weight in weights]
        functional_adamw(
            weights,
            [weight.grad for weight in weights],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            maximize=False,
            lr=one["lr"],
            beta1=one["betas"][0],
            beta2=one["betas"][1],
            weight_decay=one["weight_decay"],
            eps=one["eps"],
        )

    def _muon(self, one: Group) -> None:
        momentum = one["momentum"]
        if one["steps"] < one["momentum_warmup"]:
            start = one["momentum_start"]
            momentum = start + (momentum - start) * one["steps"] / one["momentum_warmup"]
        one["steps"] += 1

        batches: dict[Any, list[Tensor]] = defaultdict(list)
        for weight in one["params"]:
            if weight.grad is not None:
                small = max(weight.shape) <= LARGEST_BATCHED or weight.is_cuda
                batches[(weight.shape, weight.device) if small else id(weight)].append(weight)

        for weights in batches.values():
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] = {"momentum_buffer": torch.zeros_like(weight)}
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_lerp_(buffers, gradients, 1 - momentum)
            ahead = torch._foreach_lerp(gradients, buffers, momentum)  # Nesterov
            updates = orthogonalize(torch.stack(ahead)).to(weights[0].dtype).unbind(0)
            rows, columns = weights[0].shape
            scale = math.sqrt(max(1.0, rows / columns))  # the same change of output RMS for every shape
            if one["weight_decay"]:
                torch._foreach_mul_(weights, 1 - one["lr"] * one["weight_decay"])
            torch._foreach_add_(weights, updates, alpha=-one["lr"] * scale)


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices by Newton-Schulz: (N, rows, columns) -> the same, in bfloat16.

    Singular values end between about 0.7 and 1.2, which trains as well as exactly 1.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(torch.bfloat16)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT  # the smaller Gram matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
