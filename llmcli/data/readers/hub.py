"""Data sets of Hugging Face as records that a reader of rows makes, or as running text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from llmcli.data.dealing import DealtRecords
from llmcli.data.hub import Hub
from llmcli.data.reader import Flaw, options_of
from llmcli.data.readers.stream import pieces
from llmcli.data.records import Record, Text
from llmcli.data.rows import RowReader
from llmcli.data.source import Report, TextSource, check_fractions, deal
from llmcli.errors import InputError
from llmcli.text.normalize import unify_newlines


class HubRecords(DealtRecords):
    """Records that `reader` makes of the rows of a data set; path, subset, revision, streaming: as with Hub. The other
    options are those of DealtRecords."""

    def __init__(
        self,
        *,
        reader: RowReader,
        path: str | None,
        subset: str | None,
        revision: str | None,
        streaming: bool,
        val_fraction: float,
        test_fraction: float,
        stratify: bool,
        seed: int,
        flaws: Literal["error", "skip"],
        unseen_labels: Literal["error", "skip"],
        train_examples: int | None = None,  # runs of earlier versions have no such key
    ) -> None:
        super().__init__(
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            stratify=stratify,
            seed=seed,
            flaws=flaws,
            unseen_labels=unseen_labels,
            train_examples=train_examples,
        )
        self.reader, self.record = reader, reader.record
        self.hub = _hub(path, subset, revision, streaming)

    @property
    def own_splits(self) -> tuple[str, ...]:
        return self.hub.splits

    def obtain(self, report: Report) -> None:
        self.hub.load()

    def missing(self) -> list[str]:
        return self.hub.missing()

    def read(self, own_split: str) -> Iterator[Record | Flaw]:
        return map(self.reader.made_of, self.hub.rows(own_split))

    def fingerprint(self) -> dict[str, Any]:
        rows = {split: self.hub.identity(split) for split in self.own_splits}
        return {"reader": options_of(self.reader), "hub": rows, **self.dealing()}

    def describe(self) -> str:
        return self.hub.path


class HubText(TextSource):
    """Documents from a data set, one in a row. key: the column of the text. val_fraction, test_fraction: of train, for
    a split that the data set lacks, dealt by a hash of how documents begin; path and the rest: as with Hub."""

    def __init__(
        self,
        *,
        path: str | None,
        subset: str | None,
        revision: str | None,
        streaming: bool,
        key: str,
        val_fraction: float,
        test_fraction: float,
        seed: int,
        eos: bool,
    ) -> None:
        super().__init__(eos=eos)
        check_fractions(val_fraction, test_fraction)
        self.key, self.seed = key, seed
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.hub = _hub(path, subset, revision, streaming)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in ("train", "val", "test") if name in self.hub.splits or self._dealt.get(name))

    def obtain(self, report: Report) -> None:
        self.hub.load()

    def missing(self) -> list[str]:
        return self.hub.missing()

    def fingerprint(self) -> dict[str, Any]:
        rows = {split: self.hub.identity(split) for split in self.hub.splits}
        return {"reader": "hub_text", "hub": rows, "key": self.key, "split": [self._dealt, self.seed]}

    def describe(self) -> str:
        return self.hub.path

    def records(self, split: str) -> Iterator[Text]:
        if split in self.hub.splits and split != "train":
            return self._documents(split)
        shares = {f"{name}_fraction": share for name, share in self._dealt.items()}
        return deal(self._documents("train"), split, seed=self.seed, **shares)

    @property
    def _dealt(self) -> dict[str, float]:
        """The share of train of each split that the data set lacks."""
        return {name: 0.0 if name in self.hub.splits else share for name, share in self.fractions.items()}

    def _documents(self, split: str) -> Iterator[Text]:
        for row in self.hub.rows(split):
            value = row.get(self.key, "data.key")
            if not isinstance(value, str):
                raise InputError(f'{row.where}: the column "{self.key}" must be text, not {str(value)[:40]}')
            yield from pieces([unify_newlines(value)])


def _hub(path: str | None, subset: str | None, revision: str | None, streaming: bool) -> Hub:
    if path is None:
        raise InputError("data.path is needed: a name on the hub, or a folder", "data.path=OWNER/NAME")
    return Hub(path=path, subset=subset, revision=revision, streaming=streaming)
