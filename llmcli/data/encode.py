"""Documents of running text -> token shards: the hot part of preparing.

`EncodePieces` makes ids of pieces, in any process; `ShardWriter` appends them to files, in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmcli.data.columns import Column
from llmcli.data.shards import Ids
from llmcli.tokenizers.base import Tokenizer

SHARD_BYTES = 512 << 20
COUNTED = ("documents", "tokens", "bytes", "characters", "unknown")


class Pieces(NamedTuple):
    """Texts of documents, and which of them are their document's last."""

    texts: list[str]
    ends: list[bool]


class Encoded(NamedTuple):
    """ids (n,); ends (m,): the places in `ids` after the last token of each document that ends here."""

    size: int  # bytes of UTF-8 it was made of
    counts: Mapping[str, int]
    ids: Ids
    ends: NDArray[np.int64]


@dataclass(frozen=True)
class EncodePieces:
    """Ids of pieces, with an end-of-text id after every document where `eos`."""

    tokenizer: Tokenizer
    dtype: str
    eos: bool

    def __call__(self, pieces: Pieces) -> Encoded:
        rows = self.tokenizer.encode_batch(pieces.texts)
        if self.eos:
            last = [] if self.tokenizer.eos_id is None else [self.tokenizer.eos_id]
            rows = [[*row, *last] if end else row for row, end in zip(rows, pieces.ends, strict=True)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter(chain.from_iterable(rows), self.dtype, int(lengths.sum()))
        ends = np.cumsum(lengths)[pieces.ends]
        size = sum(map(utf8_length, pieces.texts))
        counts = {
            "documents": len(ends),
            "tokens": len(ids),
            "bytes": size,
            "characters": sum(map(len, pieces.texts)),
            "unknown": count_of(self.tokenizer.unk_id, ids),
        }
        return Encoded(size, counts, ids, ends)


class ShardWriter:
    """Appends ids and document ends, beginning a new shard when one is full.

    state: what `state` said when an earlier process had written so far.
    """

    def __init__(self, folder: Path, split: str, dtype: str, state: Mapping[str, Any] | None) -> None:
        self.folder, self.split, self.dtype = folder, split, dtype
        state = state or {"counts": {}, "written": [], "files": {"ids": 0, "ends": 0}}
        self.counts = Counter[str](state["counts"])
        self.written: list[dict[str, Any]] = list(state["written"])
        self._open(state["files"])

    def add(self, encoded: Encoded) -> None:
        if self._ids.count and self._ids.size + encoded.ids.nbytes > SHARD_BYTES:
            self._finish()
            self._open({"ids": 0, "ends": 0})
        self._ids.append(encoded.ids)
        self._ends.append(encoded.ends + self.counts["tokens"])
        self.counts.update(encoded.counts)

    def state(self) -> dict[str, Any]:
        files = {"ids": self._ids.count, "ends": self._ends.count}
        return {"counts": dict(self.counts), "written": list(self.written), "files": files}

    def sync(self) -> None:
        self._ids.sync()
        self._ends.sync()

    def close(self) -> dict[str, Any]:
        """The counts and shards of the split, as the manifest has them."""
        self._finish()
        return {**{name: self.counts[name] for name in COUNTED}, "shards": self.written}

    def abandon(self) -> None:
        self._ids.abandon()
        self._ends.abandon()

    def _open(self, counts: Mapping[str, int]) -> None:
        stem = f"{self.split}-{len(self.written):05d}"
        self._ids = Column(self.folder / f"{stem}.ids", self.dtype, count=counts["ids"])
        self._ends = Column(self.folder / f"{stem}.ends", "<u8", count=counts["ends"])

    def _finish(self) -> None:
        columns = {"ids": self._ids, "ends": self._ends}
        names = {name: column.path.name for name, column in columns.items()}
        counts = {"tokens": self._ids.count, "documents": self._ends.count}
        hashes = {f"{name}_sha256": column.close() for name, column in columns.items()}
        self.written.append({**names, **counts, **hashes})


def utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def count_of(index: int | None, ids: Ids) -> int:
    return 0 if index is None else int(np.count_nonzero(ids == index))
