"""The stages that fill a prepared folder, each of which a later process takes up where an earlier one left it.

clean (where there are steps) -> tokenizer -> encode, split after split. Every stage is a pass over chunks of records
that are made in any process and appended in order, so that the place in it is a number of chunks. It stands in
progress.json with the lengths of the files at that moment; what a killed process wrote after it is cut off.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from llmcli import files
from llmcli.data import spool
from llmcli.data.cleaning import Cleaning
from llmcli.data.columns import ShorterError
from llmcli.data.duplicates import Duplicates, Kept
from llmcli.data.encode import EncodePieces, Pieces, ShardWriter, utf8_length
from llmcli.data.examples import EncodeRecords, ExampleWriter
from llmcli.data.records import Record, Text
from llmcli.data.shards import id_dtype
from llmcli.data.source import Report, Source
from llmcli.data.workers import WorkerLostError, Workers
from llmcli.errors import InputError
from llmcli.tokenizers import store
from llmcli.tokenizers.base import Tokenizer
from llmcli.tokenizers.sides import SidesTokenizer

# What is done at once: enough to keep a tokenizer busy, little enough to keep memory flat.
CHUNK_CHARACTERS = 1 << 18
CHUNK_RECORDS = 4096
SAVE_SECONDS = 10.0  # from one saved place to the next

Train = Callable[[Iterable[str]], Tokenizer]


class Writer(Protocol):
    """Appends what a stage makes, in order."""

    def add(self, result: Any, /) -> None: ...
    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on, in plain values."""

    def sync(self) -> None: ...
    def close(self) -> dict[str, Any]: ...
    def abandon(self) -> None: ...


class Build:
    """A folder in the making. Raises ShorterError where its files are not what progress.json says."""

    def __init__(
        self,
        folder: Path,
        source: Source[Any],
        *,
        cleaning: Cleaning,
        duplicates: Duplicates | None,
        workers: Workers,
        report: Report,
    ) -> None:
        self.folder, self.source, self.cleaning = folder, source, cleaning
        self.workers, self.report = workers, report
        self.kept = Kept(self._cleaned, source.splits, duplicates)
        left = files.read_json(folder / "progress.json")
        if not left:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self._done: dict[str, Any] = left.get("done", {})
        self._place: dict[str, Any] = left.get("place", {})

    def clean(self) -> None:
        """Every split, where there are steps."""
        for split in self.source.splits if self.cleaning else ():
            writer = partial(spool.SpoolWriter, self.folder, split)
            chunks = _chunks(self.source.records(split))
            total = self.source.size(split) or 0
            self._stage(f"clean {split}", writer, spool.CleanRecords(self.cleaning), chunks, total)

    def empty(self, split: str) -> bool:
        """Whether cleaning left nothing of a split, or nothing was there."""
        return next(self._cleaned(split), None) is None

    def left(self, split: str) -> tuple[int, int]:
        """How many documents or examples of a split cleaning leaves, and how many of those duplicates do."""
        cleaned, kept = self._cleaned(split), self.kept.records(split)
        return sum(getattr(each, "end", True) for each in cleaned), sum(getattr(each, "end", True) for each in kept)

    def tokenizer(self, tokenizer: Tokenizer | Train, *, separate: bool) -> Tokenizer:
        """The one given, or trained on the cleaned train split; it stands in the folder then.

        separate: of pairs of texts one is trained on the sources and one on the targets.
        """
        if "tokenizer" in self._done:
            return tokenizer if isinstance(tokenizer, Tokenizer) else store.load(self.folder / "tokenizer")
        if not isinstance(tokenizer, Tokenizer):
            train = tokenizer
            if separate:
                tokenizer = SidesTokenizer(source=train(_Texts(self, side=0)), target=train(_Texts(self, side=1)))
            else:
                tokenizer = train(_Texts(self))
        (self.folder / "tokenizer").mkdir(exist_ok=True)
        for name, content in store.to_files(tokenizer).items():
            files.write_atomic(self.folder / "tokenizer" / name, content)
        self._finish("tokenizer", {})
        return tokenizer

    def encode(self, split: str, tokenizer: Tokenizer, *, eos: bool) -> dict[str, Any]:
        """Write a split: its counts and files, as the manifest has them."""
        dtype = dtype_of(tokenizer)
        chunks = _chunks(self.kept.records(split))
        name, total = f"encode {split}", self.size(split)
        if self.source.record is Text:
            pieces = (Pieces([piece.text for piece in chunk], [piece.end for piece in chunk]) for chunk in chunks)
            shards = partial(ShardWriter, self.folder, split, dtype)
            return self._stage(name, shards, EncodePieces(tokenizer, dtype, eos), pieces, total)
        columns = partial(ExampleWriter, self.folder, split, dtype)
        return self._stage(name, columns, EncodeRecords(tokenizer, dtype), chunks, total)

    def copies(self) -> dict[str, Any]:
        """What was found to stand twice: see `Kept.counts`."""
        counts: dict[str, Any] = self._done.get("copies") or self.kept.counts()
        return counts

    def tidy(self) -> None:
        """Remove what only the making needed."""
        for split in self.source.splits:
            for path in spool.paths(self.folder, split):
                path.unlink(missing_ok=True)
        for path in (self.folder / "progress.json", *self.folder.glob(".*")):  # and what a killed process was writing
            path.unlink(missing_ok=True)

    def size(self, split: str) -> int:
        """Bytes of UTF-8 that are to be read of a split, about; 0 where nobody knows."""
        cleaned = self._done.get(f"clean {split}")
        return int(cleaned["kept"]) if cleaned else self.source.size(split) or 0

    def _cleaned(self, split: str) -> Iterator[Any]:
        return spool.read(self.folder, split, self.source.record) if self.cleaning else self.source.records(split)

    def _stage(
        self,
        name: str,
        open_writer: Callable[[Mapping[str, Any] | None], Writer],
        function: Callable[[Any], Any],
        chunks: Iterator[Any],
        total: int,
    ) -> dict[str, Any]:
        """One pass, from where it was left; what the writer says at its end."""
        if name in self._done:
            stats: dict[str, Any] = self._done[name]
            return stats
        place = self._place if self._place.get("name") == name else {}
        done, size = place.get("chunks", 0), place.get("size", 0)
        writer = open_writer(place.get("writer"))
        if sum(1 for _ in islice(chunks, done)) < done:
            raise ShorterError(f"{name} has fewer chunks than it had")
        saved = time.monotonic()
        try:
            for result in self.workers.map(function, chunks):
                writer.add(result)
                done, size = done + 1, size + result.size
                self._place = {"name": name, "chunks": done, "size": size, "writer": writer.state()}
                self.report(name, size, total)
                if time.monotonic() - saved > SAVE_SECONDS:
                    writer.sync()
                    self._save()
                    saved = time.monotonic()
        except (KeyboardInterrupt, SystemExit, WorkerLostError):
            writer.abandon()
            self._save()
            raise
        except BaseException:
            writer.abandon()
            raise
        stats = writer.close()
        self._finish(name, stats)
        return stats

    def _finish(self, name: str, stats: dict[str, Any]) -> None:
        self._done[name] = stats
        if counts := self.kept.counts():
            self._done["copies"] = counts
        self._place = {}
        self._save()

    def _save(self) -> None:
        files.write_json(self.folder / "progress.json", {"done": self._done, "place": self._place})


def dtype_of(tokenizer: Tokenizer) -> str:
    """Of the ids on disk."""
    return id_dtype(max(tokenizer.vocab_size, tokenizer.of_sources.vocab_size))


class _Texts:
    """The texts of the train split after cleaning, without what it loses of what stands twice.

    side: 0 for the first text of each record alone, 1 for the second.
    """

    def __init__(self, build: Build, side: int | None = None) -> None:
        self.build = build
        self._wanted = slice(None) if side is None else slice(side, side + 1)

    def __iter__(self) -> Iterator[str]:
        splits = self.build.source.splits
        if "train" not in splits:
            raise InputError(
                f"the data has no train split to learn a tokenizer from; it has: {', '.join(splits)}",
                "tokenizer=byte learns nothing; llm eval ckpt=RUN data=... brings the tokenizer of the run",
            )
        seen, total = 0, self.build.size("train")
        for record in self.build.kept.records("train"):
            for text in record.texts()[self._wanted]:
                seen += utf8_length(text)
                yield text
            self.build.report("read for the tokenizer", seen, total)
        self.build.report("learn the tokenizer", 0, 0)


def _chunks(records: Iterable[Record]) -> Iterator[list[Any]]:
    chunk: list[Record] = []
    size = 0
    for record in records:
        length = sum(map(len, record.texts()))
        if chunk and (size + length > CHUNK_CHARACTERS or len(chunk) == CHUNK_RECORDS):
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += length
    if chunk:
        yield chunk
