"""Where prepared data lives, and hashes of values and files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from llmcli import files

BLOCK = 1 << 20
# hashing a smaller file costs no more than looking its digest up
REMEMBER_FROM = 4 << 20


def cache_root() -> Path:
    """$LLM_CACHE, else llmcli in the user's cache folder."""
    chosen = os.environ.get("LLM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llmcli"


def digest(plain: Any) -> str:
    """sha256 of a plain value (dict, list, str, int, float, bool, None) in canonical JSON."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a file, remembered in the cache folder by path, size and modification time."""
    stat = path.stat()
    if stat.st_size < REMEMBER_FROM:
        return _hash(path)
    name = digest([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    known = cache_root() / "hashes" / name
    if known.is_file():
        return known.read_text(encoding="ascii")
    value = _hash(path)
    files.write_atomic(known, value.encode("ascii"))
    return value


def _hash(path: Path) -> str:
    value = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value.update(block)
    return value.hexdigest()
