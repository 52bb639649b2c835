"""Two texts with what holds between them: one pair in each row of a table or object of a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmcli.data.formats.labels import Names, labels
from llmcli.data.formats.row import Column, Row
from llmcli.data.records import LabeledPair
from llmcli.data.rows import KEY, RowReader


@dataclass(frozen=True, kw_only=True)
class LabeledPairRows(RowReader):
    """first, second, label, value: the columns of the two texts, of what holds between them, and of a number to predict
    (None: there is none). label_separator, names: as with LabeledTextRows."""

    record: ClassVar[type[LabeledPair]] = LabeledPair

    first: Column
    second: Column
    label: Column | None
    value: Column | None
    label_separator: str | None
    names: Names | None

    def example(self, row: Row) -> LabeledPair:
        return LabeledPair(
            row.text(self.first, f"{KEY}.first"),
            row.text(self.second, f"{KEY}.second"),
            labels(row, self.label, f"{KEY}.label", separator=self.label_separator, names=self.names),
            None if self.value is None else row.number(self.value, f"{KEY}.value"),
        )
