"""What a config that comes from elsewhere may build: in each section the parts that belong there, and nothing else.

A section may name what a shipped config file of its group names (`configs/model/*.yaml` for `model`), and networks and
optimizers also the classes of torch.nn and torch.optim. So a file cannot
reach a function that happens to lie in some module. Nothing in it is resolved: an interpolation is refused, because
OmegaConf's resolvers build objects too.

LLM_TRUST=mypackage,other in the environment adds packages of the user's own, as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from llmcli.catalog import config_dir
from llmcli.errors import CheckpointError, InputError
from llmcli.schema import locate

# the packages of torch's harmless classes, by section
_TORCH = {
    "model": ("torch.nn.modules",),
    "task": ("torch.nn.modules",),
    "optimizer": ("torch.optim", "torch.nn.modules"),
}
_VARIABLE = "LLM_TRUST"


def trusted(packages: Sequence[str] = ()) -> tuple[str, ...]:
    """The user's own packages that a checkpoint may name: `packages` and those of LLM_TRUST."""
    names = [*packages, *os.environ.get(_VARIABLE, "").split(",")]
    return tuple(name.strip().rstrip(".") for name in names if name.strip(" ."))


def packages_of(node: Any) -> list[str]:
    """The top-level packages of others that the targets below a plain container come from."""
    packages = {target.partition(".")[0] for target in _targets(node)}
    return sorted(packages - {"llmcli", "torch"})


def check_plain(node: Any) -> None:
    """Raises CheckpointError for an interpolation below a plain container: what a run saves is resolved."""
    text = next((each for each in _strings(node) if "${" in each), None)
    if text is not None:
        raise CheckpointError(
            f"the checkpoint's config holds the interpolation {text[:60]}",
            "what llm train writes is resolved: the file was changed, or made by something else",
        )


def check_targets(node: Any, section: str, packages: Sequence[str] = ()) -> None:
    """Raises CheckpointError for the first `_target_` below a plain container that its section may not name.

    section: "model", "data", ... packages: of the user's own, from `trusted`.
    """
    check_plain(node)
    for target in _targets(node):
        if target in _shipped(section):
            continue
        home = target.rpartition(".")[0]
        if _below(home, ("torch",)):
            trustworthy = _is_torch_class(target, _TORCH.get(section, ()))
        else:
            # of a package of the user's own, but not what lies behind it: mypackage.os.system
            package = next((each for each in packages if _below(home, (each,))), None)
            trustworthy = package is not None and _below(_home(target), (package,))
        if not trustworthy:
            raise _refused(target, section)


@cache
def _shipped(section: str) -> frozenset[str]:
    """The targets in the config files of a group."""
    files = (config_dir() / section).glob("*.yaml") if section.isidentifier() else ()
    return frozenset(
        target for path in files for target in _targets(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    )


def _below(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _home(target: str) -> str:
    """The module that defines what `target` names."""
    return str(getattr(_found(target), "__module__", None))


def _is_torch_class(target: str, packages: Sequence[str]) -> bool:
    """Whether torch itself offers the class there: torch.nn.Linear, torch.optim.SGD."""
    home = target.rpartition(".")[0]
    if not packages or home not in ("torch.nn", "torch.optim"):
        return False
    return isinstance(_found(target), type) and _below(_home(target), packages)


def _found(target: str) -> Any:
    try:
        return locate(target)
    except InputError as err:
        raise CheckpointError(
            f"the checkpoint's config names {target}, which does not exist",
            hint="it was made by another version of llmcli, or is not a checkpoint of llmcli",
        ) from err


def _refused(target: str, section: str) -> CheckpointError:
    package = target.partition(".")[0]
    hint = f"{section} may only name what the config files of that group name; another llm wrote it, or it was changed"
    if package not in ("llmcli", "torch") and "." in target:
        hint = f"if {package} is a package of your own: {_VARIABLE}={package} llm ...; it may run any code then"
    return CheckpointError(f"the checkpoint's config names {target}, which is not trusted as its {section}", hint=hint)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


def _strings(node: Any) -> Iterator[str]:
    """All texts below a plain container, keys too."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _strings(key)
            yield from _strings(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _strings(value)
