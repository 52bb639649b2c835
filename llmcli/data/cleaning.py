"""The chosen cleaning steps, as one function from text to text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

from llmcli.data.records import Record
from llmcli.data.source import Clean
from llmcli.errors import InputError

R = TypeVar("R", bound=Record)


class Cleaning:
    """Steps in their order; without any, every text stays as it is. Raises InputError for what is no step."""

    def __init__(self, steps: Mapping[str, Clean]) -> None:
        for name, step in steps.items():
            if not callable(step):
                raise InputError(
                    f"clean.{name}: {step!r} is no cleaning step", "a step needs _target_ and _partial_: true"
                )
        self.steps = tuple(steps.values())

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __call__(self, text: str) -> str | None:
        """The text after all steps; None where one drops it."""
        changed: str | None = text
        for step in self.steps:
            if changed is None:
                return None
            changed = step(changed)
        return changed

    def record(self, record: R) -> R | None:
        """The record with its texts cleaned; None where a step drops it, or leaves nothing of a text that said
        something."""
        if not self.steps:
            return record
        changed = record.with_texts(self)
        if changed is None or any(
            a.strip() and not b.strip() for a, b in zip(record.texts(), changed.texts(), strict=True)
        ):
            return None
        return changed

    def key(self) -> list[Any]:
        """What the steps are, in plain values: names and settings."""
        return [_key(step) for step in self.steps]


def _key(step: Clean) -> list[Any]:
    if isinstance(step, partial):
        return [*_key(step.func), list(step.args), step.keywords]
    return [f"{step.__module__}.{step.__qualname__}"]
