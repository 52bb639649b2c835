"""Cleaned records on disk, between cleaning and what reads them: several passes, of which only the first cleans."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmcli.data.cleaning import Cleaning
from llmcli.data.columns import Column, ShorterError
from llmcli.data.encode import utf8_length
from llmcli.data.records import Record, Text, from_plain, to_plain

_FASTEST = 1  # zlib's level: a third of the space at 100 MB/s


class Block(NamedTuple):
    """Records after cleaning, compressed. A piece of a document that was dropped is [null, end]."""

    size: int  # bytes of UTF-8 before cleaning
    kept: int  # bytes of UTF-8 after it
    data: bytes


@dataclass(frozen=True)
class CleanRecords:
    """Records -> a block, in any process."""

    cleaning: Cleaning

    def __call__(self, records: Sequence[Record]) -> Block:
        plain, kept = [], 0
        for record in records:
            if isinstance(record, Text):
                text = self.cleaning(record.text)
                plain.append([text, record.end])
                kept += 0 if text is None else utf8_length(text)
            elif (cleaned := self.cleaning.record(record)) is not None:
                plain.append(to_plain(cleaned))
                kept += sum(map(utf8_length, cleaned.texts()))
        size = sum(utf8_length(text) for record in records for text in record.texts())
        return Block(size, kept, zlib.compress(json.dumps(plain).encode("ascii"), _FASTEST))


class SpoolWriter:
    """Appends blocks. state: what `state` said when an earlier process had written so far."""

    def __init__(self, folder: Path, split: str, state: Mapping[str, Any] | None) -> None:
        state = state or {"counts": {}, "files": {"data": 0, "ends": 0}}
        self.counts = Counter[str](state["counts"])
        data, ends = paths(folder, split)
        self._data = Column(data, "u1", count=state["files"]["data"])
        self._ends = Column(ends, "<u8", count=state["files"]["ends"])

    def add(self, block: Block) -> None:
        self._data.append(np.frombuffer(block.data, "u1"))
        self._ends.append(np.array([self._data.count]))
        self.counts["kept"] += block.kept

    def state(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "files": {"data": self._data.count, "ends": self._ends.count}}

    def sync(self) -> None:
        self._data.sync()
        self._ends.sync()

    def close(self) -> dict[str, Any]:
        """kept: bytes of UTF-8."""
        self._data.close()
        self._ends.close()
        return {"kept": self.counts["kept"]}

    def abandon(self) -> None:
        self._data.abandon()
        self._ends.abandon()


def paths(folder: Path, split: str) -> tuple[Path, Path]:
    """The blocks, and where each ends."""
    return folder / f"{split}.cleaned", folder / f"{split}.cleaned_ends"


def read(folder: Path, split: str, kind: type[Record]) -> Iterator[Record]:
    """The cleaned records, one block in memory; a document of which nothing was kept is not there.

    Raises ShorterError where the files are not what was written.
    """
    data, ends = paths(folder, split)
    blocks = _blocks(data, ends)
    if kind is Text:
        return _documents(piece for block in blocks for piece in block)
    return (from_plain(kind, values) for block in blocks for values in block)


def _blocks(data: Path, ends: Path) -> Iterator[list[Any]]:
    if not (data.is_file() and ends.is_file()):
        raise ShorterError(data)
    with data.open("rb") as blocks, ends.open("rb") as places:
        start = 0
        while place := places.read(8):
            stop = int.from_bytes(place, "little")
            block = blocks.read(stop - start)
            if len(block) < stop - start:
                raise ShorterError(data)
            yield json.loads(zlib.decompress(block))
            start = stop


def _documents(pieces: Iterator[tuple[str | None, bool]]) -> Iterator[Text]:
    begun = False
    for text, end in pieces:
        if text is not None:
            yield Text(text, end)
        elif begun and end:
            yield Text("")  # what came before it still ends here
        begun = not end and (begun or text is not None)
