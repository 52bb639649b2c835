"""Texts with a class, several classes or a number: one in each row of a table or object of a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmcli.data.formats.labels import Names, labels
from llmcli.data.formats.row import Column, Row
from llmcli.data.records import LabeledText
from llmcli.data.rows import KEY, RowReader


@dataclass(frozen=True, kw_only=True)
class LabeledTextRows(RowReader):
    """text, label, value: the columns of the text, of its label, and of a number to predict (None: there is none).

    label_separator: what stands between the labels of a text that may have several, or none; None: it has one. names:
    of the classes where the label column holds their ids: a list, counted from 0, or a mapping.
    """

    record: ClassVar[type[LabeledText]] = LabeledText

    text: Column
    label: Column | None
    value: Column | None
    label_separator: str | None
    names: Names | None

    def example(self, row: Row) -> LabeledText:
        return LabeledText(
            row.text(self.text, f"{KEY}.text"),
            labels(row, self.label, f"{KEY}.label", separator=self.label_separator, names=self.names),
            None if self.value is None else row.number(self.value, f"{KEY}.value"),
        )
