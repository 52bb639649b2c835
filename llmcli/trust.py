"""What a config that comes from elsewhere may build: the parts of a model, and nothing that acts on the machine.

LLM_TRUST=mypackage,other in the environment adds packages of the user's own, as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from llmcli.errors import CheckpointError, InputError
from llmcli.schema import locate

TRUSTED = ("llmcli.", "torch.")  # what the config inside a checkpoint may name
_TORCH = ("torch.nn.", "torch.optim.")  # and of torch only classes from here: torch.load and torch.hub run code
_MACHINERY = ("cli", "commands", "config", "checkpoint", "runs", "sweep", "ui")  # of llmcli: acts, is not built
_VARIABLE = "LLM_TRUST"


def trusted(packages: Sequence[str] = ()) -> tuple[str, ...]:
    """What the config inside a checkpoint may name: TRUSTED, `packages` and those of LLM_TRUST."""
    names = [*packages, *os.environ.get(_VARIABLE, "").split(",")]
    return (*TRUSTED, *(f"{name.strip().rstrip('.')}." for name in names if name.strip()))


def packages_of(node: Any) -> list[str]:
    """The top-level packages that the targets below a plain container come from."""
    return sorted({target.partition(".")[0] for target in _targets(node)})


def check_targets(node: Any, trusted: tuple[str, ...] = TRUSTED) -> None:
    """Raises CheckpointError for the first `_target_` below a plain container that is not trusted."""
    for target in _targets(node):
        if not _named_well(target, trusted):
            raise _refused(target)
        try:
            found = locate(target)
        except InputError as err:
            raise CheckpointError(
                f"the checkpoint's config names {target}, which does not exist",
                hint="it was made by another version of llmcli, or is not a checkpoint of llmcli",
            ) from err
        # the name may lead through a module of ours to something that it merely imports: llmcli.heads.torch.load
        home = str(getattr(found, "__module__", None))
        package = target.partition(".")[0]
        if not f"{home}.".startswith(f"{package}.") or not _named_well(home + ".", trusted):
            raise _refused(target)
        if package == "torch" and not isinstance(found, type):
            raise _refused(target)


def _named_well(name: str, trusted: tuple[str, ...]) -> bool:
    if not name.startswith(trusted):
        return False
    if name.startswith("torch."):
        return name.startswith(_TORCH)
    return not name.startswith("llmcli.") or name.split(".")[1] not in _MACHINERY


def _refused(target: str) -> CheckpointError:
    package = target.partition(".")[0]
    hint = "a checkpoint may only name parts of llmcli and classes of torch.nn and torch.optim"
    if f"{package}." not in TRUSTED and "." in target:
        hint = f"if {package} is a package of your own: {_VARIABLE}={package} llm ...; it may run any code then"
    return CheckpointError(f"the checkpoint's config names {target}, which is not trusted", hint=hint)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
