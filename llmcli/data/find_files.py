"""The files that the user means by a path."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from llmcli.data.cache import sha256_file
from llmcli.data.open_file import kind, real_file
from llmcli.errors import InputError


def find(path: str, key: str = "data.path") -> list[Path]:
    """The files that `path` names, sorted: a file, a folder with its sub-folders and without what is hidden, or a glob;
    or members of an archive (corpus.zip/*.csv), as one path.

    Raises InputError, naming the config key, where there is nothing, or something that may not be read.
    """
    place = Path(path).expanduser()
    if place.is_file() or real_file(place)[1]:  # a member of an archive is looked for when the archive is read
        found = [place]
    elif place.is_dir():
        inside = (file for file in place.rglob("*") if file.is_file())
        found = [file for file in inside if not any(name.startswith(".") for name in file.relative_to(place).parts)]
        if not found:
            raise InputError(f"{key}: the folder {path} holds no files to read")
    else:
        names = glob.glob(str(place), recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
        found = [Path(name) for name in names if Path(name).is_file()]
        if not found and glob.has_magic(path):
            raise InputError(f"{key}: no file matches {path}")
        if not found:
            raise InputError(f"{key}: there is no file or folder {path}", f"a relative path starts from {Path.cwd()}")
    for file in found:
        if not os.access(real_file(file)[0], os.R_OK):
            raise InputError(f"{key}: {file} may not be read by you", f"chmod u+r {file}")
    return sorted(found)


def identity(file: Path) -> list[str]:
    """Content and kind of a file, for fingerprints: the end of its name may say how it is read."""
    on_disk, inside = real_file(file)
    return ["".join(kind(on_disk.name)), sha256_file(on_disk), *([inside] if inside else [])]
