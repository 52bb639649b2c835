"""The errors a user can cause or meet. A message says what, where and what to do; the commands print it."""

from __future__ import annotations

import importlib
from types import ModuleType


class LLMError(Exception):
    """The run failed for a reason outside the program (disk full, non-finite loss, ...). Exit code 1.

    `hint` is the way out, shown on its own line under the message.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(LLMError, ValueError):
    """The user's input or config is wrong: a missing file, an impossible size, an unknown key. Exit code 2.

    Also a ValueError, so constructors may raise it and library users may catch either.
    """

    exit_code = 2


class CheckpointError(InputError):
    """A checkpoint is truncated, foreign, of another format version, or names a target that is not trusted."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """An optional package, imported. Raises InputError saying what needs it and how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        if err.name != module.partition(".")[0]:
            raise
        raise InputError(f"{purpose} needs the package {err.name}", f"pip install 'llmcli[{extra}]'") from err
