"""Records of one split on disk, memory-mapped: each record as it was read, and the token ids of its texts.

Three ragged columns: `rows` (a record as JSON, in UTF-8), `ids` (one row of ids for every text) and `texts` (how many
texts a record has, as running totals). Anything can be read again by its number, in O(1).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcli.data.records import KINDS, Record, from_plain, to_plain
from llmcli.data.shards import Ids, id_dtype, open_array
from llmcli.tokenizers.base import Tokenizer

BATCH = 1024  # records encoded at once


class Examples:
    """The records of a split, by number.

    kind: the record's class name. Raises InputError when a file is missing or is not as long as the manifest says.
    """

    def __init__(self, folder: Path, kind: str, files: dict[str, Any], dtype: str) -> None:
        self.folder, self.kind, self.files, self.dtype = folder, kind, files, dtype
        types = {"rows": "u1", "ids": dtype}
        self._columns = {
            name: open_array(folder / file["path"], file["count"], types.get(name, "<u8"))
            for name, file in files.items()
        }

    def __reduce__(self) -> tuple[type[Examples], tuple[Path, str, dict[str, Any], str]]:
        # a worker process maps the files itself instead of receiving their content
        return Examples, (self.folder, self.kind, self.files, self.dtype)

    def __len__(self) -> int:
        return len(self._columns["texts"])

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(f"example {number} of {len(self)}")
        start, stop = self._span("row_ends", number)
        return from_plain(KINDS[self.kind], json.loads(self._columns["rows"][start:stop].tobytes()))

    def __iter__(self) -> Iterator[Record]:
        return (self[number] for number in range(len(self)))

    def ids(self, number: int) -> list[Ids]:
        """The token ids of each of the record's texts."""
        first, last = self._span("texts", number)
        bounds = [self._span("id_ends", text) for text in range(first, last)]
        return [self._columns["ids"][start:stop] for start, stop in bounds]

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of all texts of each record, (records,)."""
        ends = _from_zero(self._columns["id_ends"])[_from_zero(self._columns["texts"])]
        lengths: NDArray[np.int64] = np.diff(ends)
        return lengths

    def _span(self, ends: str, number: int) -> tuple[int, int]:
        column = self._columns[ends]
        return int(column[number - 1]) if number else 0, int(column[number])


def _from_zero(ends: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], ends]).astype(np.int64)


def write(records: Iterable[Record], split: str, tokenizer: Tokenizer, folder: Path, progress: Any) -> dict[str, Any]:
    """Write a split; its counts, names and files, as the manifest has them. progress(records, characters)."""
    counts: Counter[str] = Counter()
    names: Counter[str] = Counter()
    with _Columns(folder, split, id_dtype(tokenizer.vocab_size)) as columns:
        for batch in _batches(records):
            texts = [text for record in batch for text in record.texts()]
            encoded = tokenizer.encode_batch(texts)
            columns.add(batch, encoded)
            names.update(name for record in batch for name in record.names())
            counts["documents"] += len(batch)
            counts["tokens"] += sum(map(len, encoded))
            counts["bytes"] += sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
            counts["characters"] += sum(map(len, texts))
            if tokenizer.unk_id is not None:
                counts["unknown"] += sum(row.count(tokenizer.unk_id) for row in encoded)
            progress(counts["characters"])
    wanted = ("documents", "tokens", "bytes", "characters", "unknown")
    return {**{name: counts[name] for name in wanted}, "names": dict(sorted(names.items())), "files": columns.written}


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


class _Columns:
    """The files of a split while they are written."""

    NAMES = ("rows", "row_ends", "ids", "id_ends", "texts")

    def __init__(self, folder: Path, split: str, dtype: str) -> None:
        self.dtype = dtype
        self.paths = {name: folder / f"{split}.{name}" for name in self.NAMES}
        self.files = {name: path.open("wb") for name, path in self.paths.items()}
        self.hashes = {name: hashlib.sha256() for name in self.NAMES}
        self.counts = dict.fromkeys(self.NAMES, 0)
        self.written: dict[str, Any] = {}

    def __enter__(self) -> _Columns:
        return self

    def __exit__(self, *_: object) -> None:
        for name, file in self.files.items():
            file.flush()
            os.fsync(file.fileno())
            file.close()
            digest = self.hashes[name].hexdigest()
            self.written[name] = {"path": self.paths[name].name, "count": self.counts[name], "sha256": digest}

    def add(self, records: list[Record], encoded: list[list[int]]) -> None:
        rows = [json.dumps(to_plain(record), ensure_ascii=False).encode("utf-8", "surrogatepass") for record in records]
        texts = [len(record.texts()) for record in records]
        places = {"row_ends": self.counts["rows"], "id_ends": self.counts["ids"], "texts": self.counts["id_ends"]}
        lengths = {"row_ends": list(map(len, rows)), "id_ends": list(map(len, encoded)), "texts": texts}
        self._append("rows", np.frombuffer(b"".join(rows), "u1"))
        self._append("ids", np.array([index for row in encoded for index in row], self.dtype))
        for name, values in lengths.items():
            self._append(name, (np.cumsum(values, dtype=np.int64) + places[name]).astype("<u8"))

    def _append(self, name: str, values: NDArray[Any]) -> None:
        data = values.tobytes()
        self.files[name].write(data)
        self.hashes[name].update(data)
        self.counts[name] += len(values)
