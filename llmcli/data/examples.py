"""Records of one split on disk, memory-mapped: each record as it was read, and the token ids of its texts.

Three ragged columns: `rows` (a record as JSON, in UTF-8), `ids` (one row of ids for every text) and `texts` (how many
texts a record has, as running totals). Anything can be read again by its number, in O(1).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmcli.data.columns import Column
from llmcli.data.encode import COUNTED, count_of, utf8_length
from llmcli.data.records import KINDS, Record, from_plain, to_plain
from llmcli.data.shards import Ids, open_array
from llmcli.tokenizers.base import Tokenizer


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

    def text_lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens of every text, (texts,), and which is the first text of each record, (records,)."""
        lengths: NDArray[np.int64] = np.diff(_from_zero(self._columns["id_ends"]))
        return lengths, _from_zero(self._columns["texts"])[:-1]

    def id_counts(self, vocab_size: int) -> NDArray[np.int64]:
        """How often each id stands in all texts, (vocab_size,)."""
        return np.bincount(self._columns["ids"], minlength=vocab_size)

    def _span(self, ends: str, number: int) -> tuple[int, int]:
        column = self._columns[ends]
        return int(column[number - 1]) if number else 0, int(column[number])


def _sums(values: Sequence[float]) -> dict[str, float]:
    return {"count": len(values), "sum": math.fsum(values), "squares": math.fsum(value**2 for value in values)}


def _spread(sums: Mapping[str, float]) -> dict[str, float]:
    """How many values there are, their mean and their standard deviation; nothing where there are none."""
    count = sums.get("count", 0)
    if not count:
        return {}
    mean = sums["sum"] / count
    return {"count": count, "mean": mean, "std": math.sqrt(max(0.0, sums["squares"] / count - mean**2))}


def _from_zero(ends: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], ends]).astype(np.int64)


class EncodedRecords(NamedTuple):
    """Records as bytes, one after the other, and the ids of all their texts."""

    size: int  # bytes of UTF-8 in their texts
    counts: Mapping[str, int]
    names: Mapping[str, int]
    values: Mapping[str, float]  # of the numbers to predict: how many, their sum, the sum of their squares
    rows: bytes
    row_lengths: list[int]  # (records,)
    texts: list[int]  # texts of each record, (records,)
    ids: Ids
    id_lengths: list[int]  # (texts,)


@dataclass(frozen=True)
class EncodeRecords:
    """Records -> what `ExampleWriter` appends; in any process."""

    tokenizer: Tokenizer
    dtype: str

    def __call__(self, records: Sequence[Record]) -> EncodedRecords:
        texts = [text for record in records for text in record.texts()]
        encoded = _encoded(self.tokenizer, texts)
        rows = [json.dumps(to_plain(record), ensure_ascii=False).encode("utf-8", "surrogatepass") for record in records]
        lengths = list(map(len, encoded))
        ids = np.fromiter(chain.from_iterable(encoded), self.dtype, sum(lengths))
        size = sum(map(utf8_length, texts))
        counts = {
            "documents": len(records),
            "tokens": len(ids),
            "bytes": size,
            "characters": sum(map(len, texts)),
            "unknown": count_of(self.tokenizer.unk_id, ids),
        }
        return EncodedRecords(
            size=size,
            counts=counts,
            names=Counter(name for record in records for name in record.names()),
            values=_sums([value for record in records if (value := getattr(record, "value", None)) is not None]),
            rows=b"".join(rows),
            row_lengths=list(map(len, rows)),
            texts=[len(record.texts()) for record in records],
            ids=ids,
            id_lengths=lengths,
        )


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of the texts of records, which are pairs where sources have a vocabulary of their own."""
    if tokenizer.of_sources is tokenizer:
        return tokenizer.encode_batch(texts)
    sides = tokenizer.of_sources.encode_batch(texts[::2]), tokenizer.encode_batch(texts[1::2])
    return [ids for pair in zip(*sides, strict=True) for ids in pair]


class ExampleWriter:
    """Appends records to the columns of a split. state: of the writer of an earlier process, as `state` said it."""

    def __init__(self, folder: Path, split: str, dtype: str, state: Mapping[str, Any] | None) -> None:
        types = {"rows": "u1", "row_ends": "<u8", "ids": dtype, "id_ends": "<u8", "texts": "<u8"}
        state = state or {"counts": {}, "names": {}, "values": {}, "files": {}}
        self.counts, self.names = Counter[str](state["counts"]), Counter[str](state["names"])
        self.values = Counter[str](state["values"])
        self._columns = {
            name: Column(folder / f"{split}.{name}", each, count=state["files"].get(name, 0))
            for name, each in types.items()
        }

    def add(self, encoded: EncodedRecords) -> None:
        columns = self._columns
        totals = {"row_ends": columns["rows"].count, "id_ends": columns["ids"].count, "texts": columns["id_ends"].count}
        lengths = {"row_ends": encoded.row_lengths, "id_ends": encoded.id_lengths, "texts": encoded.texts}
        columns["rows"].append(np.frombuffer(encoded.rows, "u1"))
        columns["ids"].append(encoded.ids)
        for name, values in lengths.items():
            columns[name].append(np.cumsum(values, dtype=np.int64) + totals[name])
        self.counts.update(encoded.counts)
        self.names.update(encoded.names)
        self.values.update(encoded.values)

    def state(self) -> dict[str, Any]:
        files = {name: column.count for name, column in self._columns.items()}
        return {
            "counts": dict(self.counts),
            "names": dict(self.names),
            "values": dict(self.values),
            "files": files,
        }

    def sync(self) -> None:
        for column in self._columns.values():
            column.sync()

    def close(self) -> dict[str, Any]:
        """The counts, names, mean and deviation of values, and files of the split, as the manifest has them."""
        files = {
            name: {"path": column.path.name, "count": column.count, "sha256": column.close()}
            for name, column in self._columns.items()
        }
        counts = {name: self.counts[name] for name in COUNTED}
        return {**counts, "names": dict(sorted(self.names.items())), "values": _spread(self.values), "files": files}

    def abandon(self) -> None:
        for column in self._columns.values():
            column.abandon()
