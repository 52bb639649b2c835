"""Texts that stand twice: leakage from val and test into train, and repeats inside train.

Only train ever loses an example. A long document of running text is known by its first million characters, so that
memory stays at those; what is remembered of the others is one number each (`Exact`, about 100 bytes), or a signature
(`Near`, about 4 kB).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from typing import Any, NamedTuple

from llmcli.data.records import Record, Text
from llmcli.errors import InputError, require
from llmcli.text.segment.base import UNSPACED

HEAD = 1 << 20  # characters that a document is known by
_BORDER = "\0"  # between the texts of an example; no white space
_WORD = re.compile(rf"(?=\w)[{UNSPACED}]|[^\W{UNSPACED}]+")
# Of 128 values in 32 bands of 4, texts of similarity 0.7 share a band with probability 0.9998, those of 0.5 with 0.87.
_VALUES, _BANDS = 128, 32
_LEAST_THRESHOLD = 0.5
_SEED = 42  # of the hash functions; no result is meant to depend on it


class Index(ABC):
    """Texts added so far, by number, each as the mark that its policy makes of it."""

    @abstractmethod
    def find(self, mark: Any) -> Sequence[int]:
        """The numbers of the texts that are alike; none where it is new."""

    @abstractmethod
    def add(self, mark: Any) -> int:
        """Remember a text that `find` did not find; its number."""


class Duplicates(ABC):
    """What counts as alike, and what is dropped from train for it.

    drop_leaks: what also stands in another split. drop_repeats: what stood in train before. min_characters: shorter
    documents of running text are not compared; examples always are.
    """

    def __init__(self, *, drop_leaks: bool, drop_repeats: bool, min_characters: int) -> None:
        self.drop_leaks, self.drop_repeats, self.min_characters = drop_leaks, drop_repeats, min_characters

    @abstractmethod
    def mark(self, text: str) -> Any:
        """What stands for a text in an index."""

    @abstractmethod
    def index(self) -> Index: ...

    def settings(self) -> dict[str, Any]:
        """What the kept examples follow from, in plain values."""
        return {"kind": type(self).__name__, **vars(self)}


class Exact(Duplicates):
    """The same characters, once case and white space are left out."""

    def mark(self, text: str) -> int:
        bare = "".join(text.casefold().split())
        return int.from_bytes(blake2b(bare.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")

    def index(self) -> Index:
        return _Numbers()


class Near(Duplicates):
    """Nearly the same words: MinHash signatures (Broder 1997) of the sets of shingles, looked up by bands of values.

    shingle: consecutive words in one; a text with fewer is one shingle. Each character counts as a word where a script
    has no spaces. threshold: of the Jaccard similarity of the two sets as the signatures estimate it (standard error
    0.03). Raises InputError for a threshold below 0.5, where bands would miss too much, and for shingle below 1.
    """

    def __init__(
        self, *, drop_leaks: bool, drop_repeats: bool, threshold: float, shingle: int, min_characters: int
    ) -> None:
        super().__init__(drop_leaks=drop_leaks, drop_repeats=drop_repeats, min_characters=min_characters)
        if not _LEAST_THRESHOLD <= threshold <= 1:
            raise InputError(f"duplicates.threshold ({threshold}) must be from {_LEAST_THRESHOLD} to 1")
        if shingle < 1:
            raise InputError(f"duplicates.shingle ({shingle}) must be at least 1")
        self.threshold, self.shingle = threshold, shingle

    def mark(self, text: str) -> Any:
        rensa = require("rensa", extra="text", purpose="duplicates=near")
        signature = rensa.RMinHash(num_perm=_VALUES, seed=_SEED)
        signature.update(shingles(text, self.shingle))
        return signature

    def index(self) -> Index:
        return _Signatures(self.threshold)


def shingles(text: str, size: int) -> list[str]:
    """The runs of `size` words, in lower case and without punctuation."""
    words = _WORD.findall(text.casefold())
    runs = zip(*(words[start:] for start in range(size)), strict=False)
    return [" ".join(run) for run in runs] or [" ".join(words)]


class _Numbers(Index):
    def __init__(self) -> None:
        self.places: dict[int, int] = {}

    def find(self, mark: int) -> Sequence[int]:
        place = self.places.get(mark)
        return () if place is None else (place,)

    def add(self, mark: int) -> int:
        return self.places.setdefault(mark, len(self.places))


class _Signatures(Index):
    def __init__(self, threshold: float) -> None:
        rensa = require("rensa", extra="text", purpose="duplicates=near")
        self.threshold = threshold
        self.bands = rensa.RMinHashLSH(threshold=threshold, num_perm=_VALUES, num_bands=_BANDS)
        self.signatures: list[Any] = []

    def find(self, mark: Any) -> Sequence[int]:
        close = (place for place in self.bands.query(mark) if mark.jaccard(self.signatures[place]) >= self.threshold)
        return sorted(set(close))

    def add(self, mark: Any) -> int:
        self.bands.insert(len(self.signatures), mark)
        self.signatures.append(mark)
        return len(self.signatures) - 1


@dataclass
class _Held:
    """A split that train is compared with. sizes: how many of its texts each number stands for."""

    index: Index
    sizes: list[int] = field(default_factory=list)
    met: set[int] = field(default_factory=set)

    def take(self, mark: Any) -> None:
        found = self.index.find(mark)
        if found:
            self.sizes[found[0]] += 1
        else:
            self.index.add(mark)
            self.sizes.append(1)

    def meets(self, mark: Any) -> bool:
        found = self.index.find(mark)
        self.met.update(found)
        return bool(found)


def in_words(manifest: Mapping[str, Any]) -> str | None:
    """One line about what prepared data has twice and what became of it; None where there is nothing to say."""
    counts, splits = manifest["copies"], manifest["splits"]
    seen = {split: number for split, number in counts.get("seen", {}).items() if number}
    if not seen and not counts.get("dropped"):
        return None
    noun = "documents" if manifest["record"] == Text.__name__ else "examples"
    said = []
    if seen:
        shares = [f"{number:,} of {splits[split]['documents']:,} {split}" for split, number in seen.items()]
        said.append(f"{' and '.join(shares)} {noun} also stand in train")
    if repeats := counts["repeats"]:
        said.append(f"{repeats:,} repeats inside train dropped")
    if leaks := counts["dropped"] - (repeats or 0):
        said.append(f"{leaks:,} dropped from train")
    elif seen:
        said.append("kept: duplicates=drop_leaks drops them from train")
    return "; ".join(said)


def leaked(examples: Iterable[Record], train: Iterable[Record]) -> list[int]:
    """The numbers of the examples that also stand in train, case and white space aside."""
    policy = Exact(drop_leaks=False, drop_repeats=False, min_characters=0)
    known = {policy.mark(_BORDER.join(record.inputs())) for record in train}
    marks = (policy.mark(_BORDER.join(record.inputs())) for record in examples)
    return [number for number, mark in enumerate(marks) if mark in known]


class _Unit(NamedTuple):
    """An example or document as texts. given: what leaks; whole: what repeats, with what is asked for."""

    given: str
    whole: str


class Kept:
    """Records of a source's splits, train without what the policy drops; it can be iterated again and again.

    records: of a split. The first whole pass over train decides, and later ones leave out the same. None as a policy
    keeps and counts nothing.
    """

    def __init__(
        self, records: Callable[[str], Iterator[Any]], splits: Sequence[str], policy: Duplicates | None
    ) -> None:
        self._records, self._policy = records, policy
        self._others = [split for split in splits if split != "train"]
        self._dropped: array[int] | None = None
        self._counts: dict[str, Any] = {}

    def records(self, split: str) -> Iterator[Any]:
        records, policy = self._records(split), self._policy
        if split != "train" or policy is None or not (self._others or policy.drop_repeats):
            return records
        return self._decide(records, policy) if self._dropped is None else _without(records, self._dropped)

    def counts(self) -> dict[str, Any]:
        """Once train has been read to its end; empty where there was nothing to compare.

        dropped: documents or examples left out of train; repeats: of them, those that stood in train before (None: not
        looked for); leaks: those of train that also stand in each other split, dropped or not; seen: those of each
        other split that also stand in train.
        """
        return self._counts

    def _decide(self, records: Iterator[Any], policy: Duplicates) -> Iterator[Any]:
        held = {split: self._hold(split, policy) for split in self._others}
        before = policy.index() if policy.drop_repeats else None
        dropped, repeats, leaks = array("Q"), 0, Counter[str]()
        for number, (unit, parts) in enumerate(_units(records, policy.min_characters)):
            drop = False
            if unit is not None:
                mark = policy.mark(unit.given)
                met = [split for split, other in held.items() if other.meets(mark)]
                leaks.update(met)
                drop = bool(met) and policy.drop_leaks
                if before is not None and not drop:
                    mark = mark if unit.whole == unit.given else policy.mark(unit.whole)
                    drop = bool(before.find(mark))
                    repeats += drop
                    if not drop:
                        before.add(mark)
            if drop:
                dropped.append(number)
            for part in parts:
                if not drop:
                    yield part
        self._dropped = dropped
        self._counts = {
            "kind": type(policy).__name__.lower(),
            "dropped": len(dropped),
            "repeats": None if before is None else repeats,
            "leaks": {split: leaks[split] for split in held},
            "seen": {split: sum(other.sizes[place] for place in other.met) for split, other in held.items()},
        }

    def _hold(self, split: str, policy: Duplicates) -> _Held:
        held = _Held(policy.index())
        for unit, parts in _units(self._records(split), policy.min_characters):
            if unit is not None:
                held.take(policy.mark(unit.given))
            for _ in parts:  # to where the next document begins
                pass
        return held


def _units(records: Iterator[Record], min_characters: int) -> Iterator[tuple[_Unit | None, Iterator[Record]]]:
    """What each example or document is compared by (None: it is too short), and its records.

    The records must be read before the next ones are asked for.
    """
    for record in records:
        if not isinstance(record, Text):
            yield _Unit(_BORDER.join(record.inputs()), _BORDER.join(record.texts())), iter((record,))
            continue
        held, size = [record], len(record.text)
        while not held[-1].end and size < HEAD and (piece := next(records, None)) is not None:
            assert isinstance(piece, Text)
            held.append(piece)
            size += len(piece.text)
        head = "".join(piece.text for piece in held)[:HEAD] if len(held) > 1 else record.text[:HEAD]
        rest = () if held[-1].end else _to_the_end(records)
        yield _Unit(head, head) if size >= min_characters else None, chain(held, rest)


def _to_the_end(pieces: Iterator[Any]) -> Iterator[Text]:
    for piece in pieces:
        yield piece
        if piece.end:
            return


def _without(records: Iterator[Any], dropped: Iterable[int]) -> Iterator[Any]:
    """The records but for those of the examples or documents of these numbers, which are in order."""
    left_out = iter(dropped)
    following, number = next(left_out, -1), 0
    for record in records:
        if number != following:
            yield record
        if getattr(record, "end", True):  # an example, or the last piece of a document
            following = next(left_out, -1) if number == following else following
            number += 1
