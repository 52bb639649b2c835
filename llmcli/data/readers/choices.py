"""Questions with choices, one in each row of a table or object of a list."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

from llmcli.data.formats.row import Column, Row, well_formed
from llmcli.data.readers.text_lines import KEY
from llmcli.data.readers.values import parsed
from llmcli.data.records import MultipleChoice
from llmcli.data.rows import RowReader
from llmcli.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ChoiceRows(RowReader):
    """context, question: their columns; None: there is none. choices: the column of a list of them, or a list of
    columns; `{"text": [...], "label": [...]}` in one column is read too. answer: the column that says which is right:
    its number, its letter, its label or the choice itself; None: the first, and they are put in an order drawn by their
    texts. first: the number that the first choice has. group: the column of what the question is an example of, for
    scores by group; None: there is none.
    """

    record: ClassVar[type[MultipleChoice]] = MultipleChoice

    context: Column | None
    question: Column | None
    choices: Column | list[Column]
    answer: Column | None
    first: int
    group: Column | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.choices, list) and len(self.choices) < 2:
            raise InputError(f"{KEY}.choices must be one column with all choices, or a list of two columns or more")

    def example(self, row: Row) -> MultipleChoice:
        choices, labels = self._choices(row)
        if len(choices) < 2:
            raise ValueError(f"a question needs two choices, not {len(choices)}")
        if self.answer is None:
            right = choices[0]
            choices = sorted(choices, key=lambda text: hashlib.sha256(text.encode()).digest())
            place = choices.index(right)
        else:
            place = self._place(row.name(self.answer, f"{KEY}.answer"), choices, labels)
        context, question = (
            "" if column is None else row.text(column, f"{KEY}.{name}")
            for name, column in (("context", self.context), ("question", self.question))
        )
        group = "" if self.group is None else row.name(self.group, f"{KEY}.group")
        return MultipleChoice(context, question, tuple(choices), place, group)

    def _choices(self, row: Row) -> tuple[list[str], list[str]]:
        """The choices and their labels; no labels where they have none."""
        if isinstance(self.choices, list):
            return [row.text(column, f"{KEY}.choices") for column in self.choices], []
        value = parsed(row.get(self.choices, f"{KEY}.choices"))
        texts, labels = (value.get("text"), value.get("label")) if isinstance(value, dict) else (value, [])
        return _texts(texts), [] if not labels else _texts(labels)

    def _place(self, answer: str, choices: list[str], labels: list[str]) -> int:
        if answer in labels:
            return labels.index(answer)
        if answer in choices:
            return choices.index(answer)
        if answer.isascii() and answer.isdecimal():
            place = int(answer) - self.first
        else:
            place = ord(answer.upper()) - ord("A") if len(answer) == 1 and answer.isascii() and answer.isalpha() else -1
        if not 0 <= place < len(choices):
            raise InputError(
                f"the answer {answer[:40]!r} is none of {len(choices)} choices",
                f"{KEY}.first= counts from another number",
            )
        return place


def _texts(value: Any) -> list[str]:
    if isinstance(value, list | tuple) and all(isinstance(each, str | int | float) for each in value):
        return [well_formed(str(each)) for each in value]
    raise ValueError(f"the choices must be a list of texts, not {str(value)[:40]}")
