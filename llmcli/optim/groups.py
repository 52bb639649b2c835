"""Parameters by the role they play in the model, which decides their rule, learning rate and decay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from llmcli.errors import InputError

Group = dict[str, Any]
SomeOptimizer = TypeVar("SomeOptimizer", bound=Optimizer)

# Devices for which torch has fused kernels of SGD, Adagrad, Adam and AdamW.
FUSED_DEVICES = frozenset({"cpu", "cuda", "mps"})


@dataclass(frozen=True, slots=True)
class Roles:
    """The trainable parameters of a module, each one exactly once.

    `hidden_matrices` have two dimensions or more (linear, recurrent and convolution weights); `embeddings`
    are look-up tables, a table shared with the output layer included; `heads` are output matrices;
    `vectors` are norms, biases and scalars.
    """

    hidden_matrices: list[nn.Parameter]
    embeddings: list[nn.Parameter]
    heads: list[nn.Parameter]
    vectors: list[nn.Parameter]

    @property
    def matrices(self) -> list[nn.Parameter]:
        """All that weight decay and L1 apply to."""
        return self.hidden_matrices + self.embeddings + self.heads


def roles(module: nn.Module) -> Roles:
    """Sort the parameters of `module` that require a gradient.

    An embedding is the weight of nn.Embedding or nn.EmbeddingBag; a head is a matrix inside a module of
    llmcli.heads or inside an attribute called `head`; the rest goes by its number of dimensions.
    """
    tables = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding | nn.EmbeddingBag)}
    head_matrices = {
        id(parameter)
        for name, child in module.named_modules()
        if type(child).__module__.startswith("llmcli.heads") or name.split(".")[-1] == "head"
        for parameter in child.parameters()
    }
    found = Roles([], [], [], [])
    for parameter in module.parameters():  # yields a shared parameter once
        if not parameter.requires_grad:
            continue
        if id(parameter) in tables:
            found.embeddings.append(parameter)
        elif parameter.ndim < 2:
            found.vectors.append(parameter)
        elif id(parameter) in head_matrices:
            found.heads.append(parameter)
        else:
            found.hidden_matrices.append(parameter)
    return found


def group(parameters: list[nn.Parameter], *, lr: float, weight_decay: float, l1: float, **extra: Any) -> Group:
    """One parameter group; `initial_lr` is what schedules multiply. Raises InputError for a negative value."""
    for name, value in {"lr": lr, "weight_decay": weight_decay, "l1": l1}.items():
        if value < 0:
            raise InputError(f"optimizer: {name} ({value}) must be at least 0")
    return {
        "params": parameters,
        "lr": lr,
        "initial_lr": lr,
        "weight_decay": weight_decay,
        "l1": l1,
        **extra,
    }


def decay_groups(module: nn.Module, *, lr: float, weight_decay: float, l1: float) -> list[Group]:
    """Matrices with weight decay and L1, vectors without either."""
    found = roles(module)
    groups = [
        group(found.matrices, lr=lr, weight_decay=weight_decay, l1=l1),
        group(found.vectors, lr=lr, weight_decay=0.0, l1=0.0),
    ]
    return [one for one in groups if one["params"]]


def take_settings(fresh: Optimizer, optimizer: Optimizer, scheduler: LambdaLR) -> None:
    """Give `optimizer` and its `scheduler` the settings of `fresh`, one built anew for the same parameters.

    Only what differs is touched, and never what an optimizer counts up (`steps`) or its moments.
    """
    for number, (new, old) in enumerate(zip(fresh.param_groups, optimizer.param_groups, strict=True)):
        for name in new.keys() - {"params", "lr", "steps"}:
            if new[name] != old[name]:
                old[name] = new[name]
        if scheduler.base_lrs[number] != new["lr"]:
            scheduler.base_lrs[number] = new["lr"]
            old["initial_lr"] = new["lr"]
            old["lr"] = new["lr"] * scheduler.lr_lambdas[number](scheduler.last_epoch)


def can_fuse(groups: list[Group]) -> bool:
    return all(parameter.device.type in FUSED_DEVICES for one in groups for parameter in one["params"])


def finish(optimizer: SomeOptimizer) -> SomeOptimizer:
    """What every optimizer here gets: the L1 term, and gradient clipping that works beside fused kernels."""
    # Fused kernels announce that they unscale float16 gradients themselves, so Lightning refuses to clip
    # beside them,
    # even in bfloat16, which has no scale. Withdrawn, the scaler unscales before the step and clipping works.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    if any(one["l1"] for one in optimizer.param_groups):
        optimizer.register_step_pre_hook(_l1_hook)
    return optimizer


def _l1_hook(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Add the L1 subgradient once the gradients are there: after the closure, if `step` was given one.

    Lightning computes (and clips) the gradients inside that closure.
    """
    optimizer, *rest = args
    closure: Callable[[], Any] | None = rest[0] if rest else kwargs.get("closure")
    if closure is None:
        _add_l1(optimizer)
        return None

    def closure_and_l1() -> Any:
        loss = closure()
        _add_l1(optimizer)
        return loss

    return (optimizer,), {**kwargs, "closure": closure_and_l1}


@torch.no_grad()
def _add_l1(optimizer: Optimizer) -> None:
    for one in optimizer.param_groups:
        if one["l1"]:
            for parameter in one["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.sign(), alpha=one["l1"])
