"""Parameters by how deep they stand in the network: frozen ones, and rates that fall from the head to the embedding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.optim import Optimizer

from llmcli.errors import InputError
from llmcli.mistakes import did_you_mean, nearest


def depths(task: nn.Module) -> dict[nn.Parameter, int]:
    """Of each parameter of a task: 0 the embedding of its `model`, 1, 2, ... the blocks, and above them the heads.

    Raises InputError where the model has no `parameter_depths`.
    """
    model = getattr(task, "model", None)
    by_name: Callable[[], dict[str, int]] | None = getattr(model, "parameter_depths", None)
    if by_name is None:
        raise InputError(
            f"finetune: {type(model).__name__} does not say what its layers are",
            "finetune.layer_decay=1 and finetune.unfreeze_every=null treat all layers alike",
        )
    assert isinstance(model, nn.Module)
    inside = by_name()
    of_model = {parameter: inside[name] for name, parameter in model.named_parameters()}
    heads = max(inside.values()) + 1
    return {parameter: of_model.get(parameter, heads) for parameter in task.parameters()}


def learning_layers(task: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters that require a gradient, by layer: heads first, the embedding last, without empty layers."""
    layers: defaultdict[int, list[nn.Parameter]] = defaultdict(list)
    for parameter, depth in depths(task).items():
        if parameter.requires_grad:
            layers[depth].append(parameter)
    return [layers[depth] for depth in sorted(layers, reverse=True)]


def decay_rates(optimizer: Optimizer, depth_of: Mapping[nn.Parameter, int], decay: float) -> None:
    """Split each parameter group by layer; the rate of a layer is `decay` times that of the layer above it.

    Layer-wise decay (Sun et al. 2019; Clark et al. 2020), with 1 / 2.6 the discriminative fine-tuning of Howard & Ruder
    (2018). The heads keep their rate. Schedules multiply the rate of each group. Called before the first step.
    """
    heads = max(depth_of.values())
    groups = []
    for group in optimizer.param_groups:
        layers: defaultdict[int, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            layers[depth_of[parameter]].append(parameter)
        for depth in sorted(layers, reverse=True):
            lr = group["lr"] * decay ** (heads - depth)
            groups.append({**group, "params": layers[depth], "lr": lr, "initial_lr": lr})
    optimizer.param_groups[:] = groups


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Parameters whose names match a pattern (`model.blocks.0.*`) need no gradient any more.

    Raises InputError for a pattern that matches none, and where nothing is left to learn.
    """
    # a shared parameter has all its names here
    named = dict(module.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        matched = [name for name in named if fnmatchcase(name, pattern)]
        if not matched:
            raise _no_such(pattern, named)
        for name in matched:
            named[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in named.values()):
        raise InputError(f"finetune.freeze=[{','.join(patterns)}] leaves nothing to learn", "freeze less")


def _no_such(pattern: str, names: Mapping[str, nn.Parameter]) -> InputError:
    parts = {name.rsplit(".", cut)[0] for name in names for cut in range(name.count(".") + 1)}
    meant = nearest(pattern.rstrip("*."), parts)
    close = did_you_mean(meant and (meant if meant in names else f"{meant}.*"))
    heads = sorted({".".join(name.split(".")[:2]) for name in names})
    return InputError(
        f"finetune.freeze: no parameter's name is {pattern}.{close}", f"the names begin with {', '.join(heads)}"
    )
