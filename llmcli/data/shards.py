"""Tokens of one split on disk, memory-mapped: flat little-endian ids and the places where documents end.

Shapes: B rows, C count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from llmcli.errors import InputError

Ids = NDArray[Any]  # uint16 or uint32


def id_dtype(vocab_size: int) -> str:
    """The smallest type that holds every id: "<u2" or "<u4"."""
    return "<u2" if vocab_size < 65_536 else "<u4"


@dataclass(frozen=True)
class ShardFile:
    """`tokens` ids in `path`; in `ends`, the places (uint64, in the split) where `documents` of them end."""

    path: Path
    ends: Path
    tokens: int
    documents: int


class TokenShards:
    """The tokens of a split as one long read-only sequence.

    Raises InputError when a file is missing or is not as long as the manifest says.
    """

    def __init__(self, files: Sequence[ShardFile], dtype: str) -> None:
        self.files, self.dtype = tuple(files), dtype
        self._parts = [open_array(file.path, file.tokens, dtype) for file in self.files]
        self._ends = [open_array(file.ends, file.documents, "<u8") for file in self.files]
        # bounds[i] is the place of shard i's first token
        self._bounds = np.cumsum([0, *(file.tokens for file in self.files)])
        self._windows: tuple[int, Ids] | None = None

    def __reduce__(self) -> tuple[type[TokenShards], tuple[tuple[ShardFile, ...], str]]:
        # a worker process maps the files itself instead of receiving their content
        return TokenShards, (self.files, self.dtype)

    def __len__(self) -> int:
        return int(self._bounds[-1])

    @property
    def document_ends(self) -> NDArray[np.uint64]:
        """Place after the last token of each document, (documents,)."""
        return self._ends[0] if len(self._ends) == 1 else np.concatenate(self._ends)

    def read(self, start: int, count: int) -> Ids:
        """Tokens [start, start + count), (C,). IndexError where they do not exist."""
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of {len(self)}")
        if count == 0:
            return np.empty(0, self.dtype)
        shard = int(np.searchsorted(self._bounds, start, side="right")) - 1
        found = []
        while count:
            low = start - int(self._bounds[shard])
            part = self._parts[shard][low : low + count]
            found.append(part)
            start, count, shard = start + len(part), count - len(part), shard + 1
        return found[0] if len(found) == 1 else np.concatenate(found)

    def gather(self, starts: NDArray[np.int64], count: int) -> Ids:
        """Tokens [s, s + count) for each s of `starts` (B,) -> (B, C)."""
        if len(self._parts) > 1:
            return np.stack([self.read(int(start), count) for start in starts])
        known = self._windows  # once: another thread may be asking for windows of another length
        if known is None or known[0] != count:
            self._windows = known = count, sliding_window_view(self._parts[0], count)
        windows: Ids = known[1][starts]
        return windows


def open_array(path: Path, count: int, dtype: str) -> Ids:
    """`count` values of a file, read-only and memory-mapped. Raises InputError where it has another length."""
    expected = count * np.dtype(dtype).itemsize
    found = path.stat().st_size if path.is_file() else -1
    if found != expected:
        what = "is missing" if found < 0 else f"has {found:,} bytes instead of {expected:,}"
        raise InputError(
            f"prepared data is damaged: {path} {what}",
            f"delete {path.parent}; the next run prepares it again",
        )
    if count == 0:
        return np.empty(0, dtype)
    # a plain array: np.memmap's own indexing is several times slower
    return np.memmap(path, dtype, mode="r").view(np.ndarray)
