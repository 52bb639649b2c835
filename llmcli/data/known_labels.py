"""The part of a labelled split that a run can be scored on: records with no label but those that it was trained on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from llmcli.data.records import Record
from llmcli.data.source import Report, Source


class KnownLabels(Source[Record]):
    """One split of another source, without the records that have a label which is not among `names`."""

    def __init__(self, source: Source[Any], *, split: str, names: Collection[str]) -> None:
        self.source, self.split, self.names = source, split, frozenset(names)
        self.record = source.record
        self._unknown = 0

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in self.source.splits if name == self.split)

    def obtain(self, report: Report) -> None:
        self.source.obtain(report)

    def missing(self) -> list[str]:
        return self.source.missing()

    def fingerprint(self) -> dict[str, Any]:
        return {**self.source.fingerprint(), "split": self.split, "known_labels": sorted(self.names)}

    def size(self, split: str) -> int | None:
        return self.source.size(split)

    @property
    def left_out(self) -> dict[str, int]:
        unknown = {"with labels that the run was not trained on": self._unknown} if self._unknown else {}
        return {**self.source.left_out, **unknown}

    def records(self, split: str) -> Iterator[Record]:
        self._unknown = 0
        for record in self.source.records(split):
            if self.names.issuperset(record.names()):
                yield record
            else:
                self._unknown += 1

    def describe(self) -> str:
        return self.source.describe()
