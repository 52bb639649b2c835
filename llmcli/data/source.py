"""What every source of records offers, and how the documents of running text are dealt to splits."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from llmcli.data.records import Record, Text
from llmcli.errors import InputError

Clean = Callable[[str], str | None]
# stage, how far, of how much (0: not known)
Report = Callable[[str, float, float], None]

R = TypeVar("R", bound=Record)
_COMPRESSED = (".gz", ".xz", ".zst", ".bz2", ".zip")


class Source(ABC, Generic[R]):
    """Records of one kind in named splits ("train" and, where the source has them, "val" and "test")."""

    record: type[R]

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]: ...

    def obtain(self, report: Report) -> None:
        """Fetch what is not on this machine yet; called once before anything is read."""

    def missing(self) -> list[str]:
        """The URLs that `obtain` would fetch now."""
        return []

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What the records follow from: content hashes and the reading options, in plain values."""

    def size(self, split: str) -> int | None:
        """About how many bytes of UTF-8 the texts of a split are, without reading them, to say how long reading will
        take; None where nothing tells."""
        return None

    @property
    def left_out(self) -> dict[str, int]:
        """How many records were left out for which reason, in words that follow the number, once all have been read."""
        return {}

    @abstractmethod
    def records(self, split: str) -> Iterator[R]:
        """The split's records in a fixed order, one at a time in memory."""

    @abstractmethod
    def describe(self) -> str:
        """Where the records come from, in a few words: "Python 3.11.7, sha 3fa9…"."""


class Wrapped(Source[R]):
    """Another source whose records are made into others, in the same splits: what is left to say is `records`, and in
    `fingerprint` how."""

    source: Source[Any]

    @property
    def splits(self) -> tuple[str, ...]:
        return self.source.splits

    @property
    def own_splits(self) -> tuple[str, ...]:
        return tuple(getattr(self.source, "own_splits", ()))

    @property
    def unseen_labels(self) -> str:
        return str(getattr(self.source, "unseen_labels", ""))

    def obtain(self, report: Report) -> None:
        self.source.obtain(report)

    def missing(self) -> list[str]:
        return self.source.missing()

    def size(self, split: str) -> int | None:
        return self.source.size(split)

    @property
    def left_out(self) -> dict[str, int]:
        return self.source.left_out

    def describe(self) -> str:
        return self.source.describe()


class TextSource(Source[Text]):
    """Documents of running text, a long one in pieces. `eos`: an end-of-text token follows every document."""

    record = Text

    def __init__(self, *, eos: bool) -> None:
        self.eos = eos


def plain_size(files: Iterable[Path]) -> int | None:
    """Bytes in all the files; None where some are compressed."""
    listed = list(files)
    return None if any(file.suffix in _COMPRESSED for file in listed) else sum(file.stat().st_size for file in listed)


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raises InputError unless both are at least 0 and leave something to train on."""
    if val_fraction < 0 or test_fraction < 0 or val_fraction + test_fraction >= 1:
        raise InputError(
            f"data.val_fraction ({val_fraction}) and data.test_fraction ({test_fraction}) must be at least 0 "
            "and together less than 1"
        )


def split_names(val_fraction: float, test_fraction: float) -> tuple[str, ...]:
    return ("train", *(["val"] if val_fraction else []), *(["test"] if test_fraction else []))


def deal(pieces: Iterable[Text], split: str, *, val_fraction: float, test_fraction: float, seed: int) -> Iterator[Text]:
    """The documents that belong to `split`, each chosen by a hash of its beginning.

    New documents do not move old ones to another split, and copies of a document stay together.
    """
    beginning, wanted = True, False
    for piece in pieces:
        if beginning:
            value = hashlib.blake2b(piece.text.encode("utf-8", "surrogatepass"), digest_size=8, salt=_salt(seed))
            place = int.from_bytes(value.digest(), "big") / 2**64
            home = "val" if place < val_fraction else "test" if place < val_fraction + test_fraction else "train"
            wanted = home == split
        if wanted:
            yield piece
        beginning = piece.end


def stretch(pieces: Iterable[Text], start: int, stop: int) -> Iterator[Text]:
    """Characters [start, stop) of the documents laid end to end; a document that is cut ends there."""
    at = 0
    for piece in pieces:
        if at >= stop:
            return
        low, high = max(start - at, 0), min(stop - at, len(piece.text))
        at += len(piece.text)
        if low < high:
            yield Text(piece.text[low:high], end=piece.end or at >= stop)


def tail_bounds(total: int, val_fraction: float, test_fraction: float) -> dict[str, tuple[int, int]]:
    """Character ranges of the splits when val, then test, are the last parts of `total` characters."""
    # the fractions are not exact in binary: 9.999999 characters are ten
    train = int(total * (1 - val_fraction - test_fraction) + 1e-6)
    val = total - int(total * test_fraction + 1e-6)
    return {"train": (0, train), "val": (train, val), "test": (val, total)}


def _salt(seed: int) -> bytes:
    return (seed % 2**64).to_bytes(8, "big")
