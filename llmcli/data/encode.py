"""Documents of running text -> token shards: the hot part of preparing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from llmcli.data.records import Text
from llmcli.data.shards import id_dtype
from llmcli.tokenizers.base import Tokenizer

SHARD_BYTES = 512 << 20
# what is encoded at once: enough to keep a tokenizer busy, little enough to keep memory flat
CHUNK_CHARACTERS = 1 << 19
CHUNK_PIECES = 4096


def write(
    documents: Iterable[Text],
    split: str,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    eos: bool,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Write the shards of one split; its counts and shard list, as the manifest has them. progress(characters)."""
    counts = {"documents": 0, "tokens": 0, "bytes": 0, "characters": 0, "unknown": 0}
    ends_with = [tokenizer.eos_id] if eos else []
    shards = _Writer(folder, split, np.dtype(id_dtype(tokenizer.vocab_size)))
    with shards:
        for chunk in _chunks(documents):
            encoded = tokenizer.encode_batch([piece.text for piece in chunk])
            rows = [[*row, *ends_with] if piece.end and eos else row for row, piece in zip(encoded, chunk, strict=True)]
            lengths = np.fromiter(map(len, rows), np.int64, len(rows))
            ids = np.fromiter(chain.from_iterable(rows), shards.dtype, int(lengths.sum()))
            ends = np.cumsum(lengths)[[piece.end for piece in chunk]]
            shards.add(ids, ends)
            counts["documents"] += len(ends)
            counts["tokens"] += len(ids)
            counts["bytes"] += sum(_utf8_length(piece.text) for piece in chunk)
            counts["characters"] += sum(len(piece.text) for piece in chunk)
            if tokenizer.unk_id is not None:
                counts["unknown"] += int(np.count_nonzero(ids == tokenizer.unk_id))
            progress(counts["characters"])
    return {**counts, "shards": shards.written}


def _chunks(documents: Iterable[Text]) -> Iterator[list[Text]]:
    chunk: list[Text] = []
    size = 0
    for piece in documents:
        chunk.append(piece)
        size += len(piece.text)
        if size >= CHUNK_CHARACTERS or len(chunk) >= CHUNK_PIECES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Writer:
    """Appends ids and document ends, beginning a new shard when one is full."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any]) -> None:
        self.folder, self.split, self.dtype = folder, split, dtype
        self.written: list[dict[str, Any]] = []
        self.tokens = 0  # of the whole split
        self._begin()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._finish()

    def add(self, ids: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> None:
        """ids (n,); ends (m,): the places in `ids` after the last token of each document that ends here."""
        if self._ids.tell() and self._ids.tell() + ids.nbytes > SHARD_BYTES:
            self._finish()
            self._begin()
        _append(self._ids, self._ids_hash, ids)
        _append(self._ends, self._ends_hash, (ends + self.tokens).astype("<u8"))
        self.tokens += len(ids)

    def _begin(self) -> None:
        stem = f"{self.split}-{len(self.written):05d}"
        self._names = {"ids": f"{stem}.ids", "ends": f"{stem}.ends"}
        self._ids = (self.folder / self._names["ids"]).open("wb")
        self._ends = (self.folder / self._names["ends"]).open("wb")
        self._ids_hash, self._ends_hash = hashlib.sha256(), hashlib.sha256()

    def _finish(self) -> None:
        counts = {"tokens": self._ids.tell() // self.dtype.itemsize, "documents": self._ends.tell() // 8}
        for file in (self._ids, self._ends):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        hashes = {"ids_sha256": self._ids_hash.hexdigest(), "ends_sha256": self._ends_hash.hexdigest()}
        self.written.append({**self._names, **counts, **hashes})


def _append(file: IO[bytes], running: Any, values: np.ndarray[Any, Any]) -> None:
    data = values.tobytes()
    file.write(data)
    running.update(data)


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
