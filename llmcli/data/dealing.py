"""Records dealt to splits where a source does not have them all, and those that are left out."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from array import array
from collections import defaultdict, deque
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from llmcli.data.reader import Flaw
from llmcli.data.records import Record
from llmcli.data.source import Source, check_fractions
from llmcli.errors import InputError

_END = 2**64  # of the hashes
SplitBy = Literal["source", "target"]
Bounds = tuple[int, int]  # hashes below the first are val, below the second test, the others train


class DealtRecords(Source[Record]):
    """Records of splits that the source has, and parts of its train split for those that it lacks.

    val_fraction, test_fraction: shares of train for a split that the source lacks; 0: it stays without. A record's
    place follows from a hash of its inputs: copies stay together, and new records do not move old ones. stratify: the
    shares hold exactly, for every label (or set of labels) by itself too, but for what labels with few records cannot
    give; copies with different labels may be parted; train is read once more for it, at 8 bytes a record. flaws: what
    cannot be read as a record is an "error" or left out ("skip"). unseen_labels: "skip" leaves out records of val and
    test with a label that no record of train has, as they are read; "error" leaves them to be found. train_examples: so
    many of train are kept, chosen by their hashes, the same share of every label where each record has one; None: all.
    """

    def __init__(
        self,
        *,
        val_fraction: float,
        test_fraction: float,
        stratify: bool,
        seed: int,
        flaws: Literal["error", "skip"],
        unseen_labels: Literal["error", "skip"],
        train_examples: int | None = None,  # runs of earlier versions have no such key
        split_by: SplitBy = "source",
    ) -> None:
        check_fractions(val_fraction, test_fraction)
        if split_by not in get_args(SplitBy):
            raise InputError(f"data.split_by ({split_by}) must be one of {', '.join(get_args(SplitBy))}")
        if train_examples is not None and train_examples < 1:
            raise InputError(f"data.train_examples ({train_examples}) must be at least 1", "null keeps all")
        for name, value in (("flaws", flaws), ("unseen_labels", unseen_labels)):
            if value not in ("error", "skip"):
                raise InputError(f"data.{name} ({value}) must be one of error, skip")
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.stratify, self.seed, self.flaws, self.unseen_labels = stratify, seed, flaws, unseen_labels
        self.train_examples, self.split_by = train_examples, split_by
        self._flawed: dict[str, int] = {}
        self._unseen: dict[str, int] = {}

    @property
    @abstractmethod
    def own_splits(self) -> tuple[str, ...]:
        """The splits that the source has itself, among "train", "val" and "test"."""

    @abstractmethod
    def read(self, own_split: str) -> Iterator[Record | Flaw]:
        """All there is in one of them."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in ("train", "val", "test") if name in self.own_splits or name in self._dealt)

    @property
    def left_out(self) -> dict[str, int]:
        """Reads what has not been read to its end yet."""
        if self.flaws == "skip":
            for split in self.own_splits:
                if split not in self._flawed:
                    _exhaust(self._sound(split))
        if self.unseen_labels == "skip":
            for split in self.splits:
                if split != "train" and split not in self._unseen:
                    _exhaust(self.records(split))
        reasons = {"flawed": self._flawed, "with labels that train never has": self._unseen}
        return {reason: sum(counts.values()) for reason, counts in reasons.items() if any(counts.values())}

    def records(self, split: str) -> Iterator[Record]:
        if split not in self.splits:
            raise InputError(f"the data has no {split} split; it has: {', '.join(self.splits)}")
        records = self._home(split) if split == "train" or split in self._dealt else self._sound(split)
        if split == "train" and self.train_examples is not None:
            return self._chosen(self.train_examples)
        return self._seen(records, split) if split != "train" and self.unseen_labels == "skip" else records

    def dealing(self) -> dict[str, Any]:
        """What decides which records are in which split, for the fingerprint."""
        shares = {name: share for name, share in self.fractions.items() if name in self._dealt}
        how = {"fractions": shares, "stratify": self.stratify, "seed": self.seed} if shares else {}
        how |= {"split_by": self.split_by} if shares and self.split_by != "source" else {}
        few = {} if self.train_examples is None else {"train_examples": self.train_examples, "seed": self.seed}
        return {**how, **few, "flaws": self.flaws, "unseen_labels": self.unseen_labels}

    @cached_property
    def _dealt(self) -> tuple[str, ...]:
        wanted = [name for name, share in self.fractions.items() if share and name not in self.own_splits]
        return tuple(wanted) if "train" in self.own_splits else ()

    def _sound(self, own_split: str) -> Iterator[Record]:
        """All but the flaws."""
        kept, flawed, first = 0, 0, None
        for item in self.read(own_split):
            if isinstance(item, Flaw):
                if self.flaws == "error":
                    raise item.error()
                flawed, first = flawed + 1, first or item
            else:
                kept += 1
                yield item
        self._flawed[own_split] = flawed
        if first and not kept:
            raise InputError(f"none of {flawed:,} records can be read; {first.where}: {first.what}", first.hint)

    def _home(self, split: str) -> Iterator[Record]:
        """The records of the source's train that belong to `split`."""
        if not self._dealt:
            yield from self._sound("train")
            return
        bounds = self._bounds_of_strata if self.stratify else {}
        for record in self._sound("train"):
            val, test = bounds[_stratum(record)] if self.stratify else self._fixed_bounds
            place = self._place(record)
            if split == ("val" if place < val else "test" if place < test else "train"):
                yield record

    def _chosen(self, count: int) -> Iterator[Record]:
        """`count` records of train: of each label those of the smallest hashes, in the order in which they are read."""
        places: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, record in enumerate(self._home("train")):
            names = record.names()
            places[names[0] if len(names) == 1 else ""].append((self._place(record), number))
        total = sum(map(len, places.values()))
        if count > total:
            raise InputError(f"data.train_examples ({count:,}) is more than there are in train: {total:,}")
        # what rounding leaves over is carried to the next larger label, as in `_bounds_of_strata`
        kept, owed = set(), 0.0
        for label in sorted(places, key=lambda each: (len(places[each]), each)):
            owed += count * len(places[label]) / total
            given = round(owed)
            owed -= given
            kept |= {number for _, number in sorted(places[label])[:given]}
        return (record for number, record in enumerate(self._home("train")) if number in kept)

    def _place(self, record: Record) -> int:
        value = hashlib.blake2b(digest_size=8, salt=(self.seed % _END).to_bytes(8, "big"))
        n_inputs = len(record.inputs())
        for text in record.inputs() if self.split_by == "source" else record.texts()[n_inputs:]:
            data = text.encode("utf-8", "surrogatepass")
            value.update(len(data).to_bytes(8, "big") + data)
        return int.from_bytes(value.digest(), "big")

    @property
    def _shares(self) -> tuple[float, float]:
        val, test = (self.fractions[name] if name in self._dealt else 0.0 for name in ("val", "test"))
        return val, test

    @property
    def _fixed_bounds(self) -> Bounds:
        val, test = self._shares
        return int(val * _END), int((val + test) * _END)

    @cached_property
    def _bounds_of_strata(self) -> dict[tuple[str, ...], Bounds]:
        """Bounds that give each stratum its shares.

        What rounding leaves over, or a rare label cannot give, is carried to the next larger stratum, so that the
        shares of the whole hold too. Where records have one label each, one record of every label stays in train.
        """
        places: defaultdict[tuple[str, ...], array[int]] = defaultdict(lambda: array("Q"))
        for record in self._sound("train"):
            places[_stratum(record)].append(self._place(record))
        owed = [0.0, 0.0]
        bounds = {}
        for stratum in sorted(places, key=lambda each: (len(places[each]), each)):
            ordered = np.sort(np.frombuffer(places[stratum], np.uint64))
            spare = len(ordered) - (len(stratum) == 1)
            taken = 0
            cuts = []
            for index, share in enumerate(self._shares):
                owed[index] += share * len(ordered)
                given = min(max(0, round(owed[index])), spare - taken)
                owed[index] -= given
                taken += given
                cuts.append(0 if taken == 0 else _END if taken == len(ordered) else int(ordered[taken]))
            bounds[stratum] = (cuts[0], cuts[1])
        return bounds

    def _seen(self, records: Iterator[Record], split: str) -> Iterator[Record]:
        unseen = 0
        for record in records:
            if self._names_of_train.issuperset(record.names()):
                yield record
            else:
                unseen += 1
        self._unseen[split] = unseen

    @cached_property
    def _names_of_train(self) -> frozenset[str]:
        if "train" not in self.splits:
            raise InputError("data.unseen_labels=skip needs a train split", f"the data has: {', '.join(self.splits)}")
        return frozenset(name for record in self.records("train") for name in record.names())


def _exhaust(records: Iterator[Record]) -> None:
    deque(records, maxlen=0)


def _stratum(record: Record) -> tuple[str, ...]:
    return tuple(sorted(set(record.names())))
