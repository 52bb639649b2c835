"""A row of a table, or an object of a list, whatever the format it came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.errors import InputError
from llmcli.mistakes import did_you_mean, nearest

Column = str | int


@dataclass(frozen=True)
class Row:
    """values: by the column's name, in the order of the columns. where: like "reviews.csv, line 7"."""

    where: str
    values: Mapping[str, Any]

    def get(self, column: Column, option: str) -> Any:
        """The value of a column, called by its name or its number, which begins at 1.

        option: the config key that chose it. Raises InputError for a column that is not there, naming those that are.
        """
        name = str(column)
        if name in self.values:
            return self.values[name]
        if name.isascii() and name.isdigit() and 0 < int(name) <= len(self.values):
            return list(self.values.values())[int(name) - 1]
        there = ", ".join(self.values) or "none"
        meant = did_you_mean(nearest(name, self.values))
        raise InputError(
            f'there is no column "{name}"; the columns are: {there.rstrip(".")}.{meant}',
            f"{option}=COLUMN chooses one; where the first line of a table is data, data.reader.header=false",
        )

    def text(self, column: Column, option: str) -> str:
        """Text that says something. Raises InputError for an empty one and for what is no text."""
        value = self.get(column, option)
        if value is None:
            raise InputError(f'the column "{column}" is empty')
        if not isinstance(value, str):
            raise InputError(f'the column "{column}" must be text, not {_shown(value)}')
        if not value.strip():
            raise InputError(f'the column "{column}" is empty')
        return well_formed(value)

    def name(self, column: Column, option: str) -> str:
        """A label: short text, or a number as it is written."""
        value = self.get(column, option)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int):
            return str(value)
        if isinstance(value, float) and value.is_integer():
            return str(int(value))  # a column of whole numbers that has gaps
        return self.text(column, option).strip()

    def number(self, column: Column, option: str) -> float:
        """Raises InputError for what is no number, and for infinite ones."""
        value = self.get(column, option)
        try:
            number = float(value) if isinstance(value, str | int | float) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f'the column "{column}" must be a number, not {_shown(value)}')
        return number


def well_formed(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
