"""Files that are there whole or not at all, and small JSON files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any


def write_atomic(path: Path, content: bytes | Callable[[IO[bytes]], object], *, sync: bool = True) -> None:
    """Give `path` new content in one step: written beside it, synced, renamed over it.

    content: the bytes, or a function that writes them to an open file. sync: whether it must survive a power cut too,
    which means to wait for the disk. Whatever fails, an OSError of a full disk or the function's own error, is raised
    as it is; what stood at `path` is untouched then, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp's 0600 would lock out the user's group
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut: a rename is durable only then. Windows has no such call."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Mapping[str, Any], *, sync: bool = True) -> None:
    """Replace a small JSON file in one step; see `write_atomic`."""
    text = json.dumps(dict(content), ensure_ascii=False, indent=1) + "\n"
    write_atomic(path, text.encode("utf-8", "surrogatepass"), sync=sync)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file; empty where there is no such file, or it holds something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _umask() -> int:
    mask = os.umask(0)  # there is no call that only reads it
    os.umask(mask)
    return mask
