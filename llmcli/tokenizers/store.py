"""Tokenizers as named files, in a folder or inside a checkpoint."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from llmcli.errors import CheckpointError, InputError
from llmcli.tokenizers.base import Tokenizer

_HEADER = "tokenizer.json"
_FORMAT = 1
_TRUSTED = re.compile(r"(llmcli\.tokenizers\.[a-z_][a-z0-9_]*)\.([A-Za-z]\w*)")


def to_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The tokenizer's own files and tokenizer.json, which names its class."""
    kind = type(tokenizer)
    header = {"format": _FORMAT, "class": f"{kind.__module__}.{kind.__qualname__}"}
    return {_HEADER: json.dumps(header).encode(), **tokenizer.files()}


def from_files(files: Mapping[str, bytes]) -> Tokenizer:
    """The inverse of `to_files`.

    Raises CheckpointError, naming the file, if one is missing or damaged, if the class is not one of llmcli.tokenizers,
    and if it needs a package that is not installed.
    """
    kind = _trusted_class(files)
    own = {name: data for name, data in files.items() if name != _HEADER}
    try:
        return kind.from_files(own)
    except KeyError as err:
        raise CheckpointError(f"the tokenizer's file {err.args[0]} is missing") from err
    except InputError as err:  # the files are whole, but not for this version or this machine
        raise CheckpointError(f"the tokenizer cannot be rebuilt: {err}", err.hint) from err
    except (ValueError, TypeError, RuntimeError) as err:
        names = ", ".join(sorted(own))
        raise CheckpointError(f"the tokenizer's file {names} is damaged: {err}") from err


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `to_files` into `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in to_files(tokenizer).items():
        (folder / name).write_bytes(data)


def load(folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote. Raises CheckpointError as `from_files` does."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a tokenizer folder", hint="give a folder that holds tokenizer.json")
    try:
        return from_files({path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()})
    except CheckpointError as err:
        raise CheckpointError(f"{folder}: {err}", hint=err.hint) from err


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 over names and contents of all files: equal for tokenizers that encode alike."""
    digest = hashlib.sha256()
    for name, data in sorted(to_files(tokenizer).items()):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _trusted_class(files: Mapping[str, bytes]) -> type[Tokenizer]:
    if _HEADER not in files:
        raise CheckpointError(f"the tokenizer's file {_HEADER} is missing")
    try:
        header = json.loads(files[_HEADER])
        version, path = header["format"], str(header["class"])
    except (ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"the tokenizer's file {_HEADER} is damaged: {err}") from err
    if version != _FORMAT:
        raise CheckpointError(
            f"{_HEADER} has format {version}, this version reads format {_FORMAT}", hint="upgrade llmcli"
        )
    match = _TRUSTED.fullmatch(path)
    if match is None:
        raise CheckpointError(f"{_HEADER} names the class {path}, which is not in llmcli.tokenizers")
    try:
        kind = getattr(importlib.import_module(match[1]), match[2])
    except (ImportError, AttributeError) as err:
        raise CheckpointError(f"{_HEADER} names an unknown class {path}", hint="upgrade llmcli") from err
    if not (isinstance(kind, type) and issubclass(kind, Tokenizer) and kind.__module__ == match[1]):
        raise CheckpointError(f"{_HEADER} names {path}, which is not a tokenizer")
    return kind
