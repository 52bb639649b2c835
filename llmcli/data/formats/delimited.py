"""Tables as text: CSV and TSV, with values in quotes that may hold separators and line ends."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from llmcli.data.decode import LONGEST, lines
from llmcli.data.formats.row import Row
from llmcli.data.reader import Flaw

DELIMITERS = (",", "\t", ";", "|")
_TOO_LONG = f"a line of more than {LONGEST:,} characters"
_LOOKED_AT = 50  # lines, to see which delimiter makes columns of them


def read(
    blocks: Iterable[str], name: str, *, delimiter: str | None, quotes: bool | None, header: bool
) -> Iterator[Row | Flaw]:
    """The rows of a table. `name`: of the file, for messages.

    delimiter: None is the one of , tab ; | that cuts the first lines best. quotes: a value that begins with a double
    quote goes on to the next single one; None: unless tabs are between them. header: the first row names the columns,
    else they are called 1, 2, 3, ... A row with more or fewer values than the first is a flaw, and so is a line of more
    than 16,777,216 characters. Raises InputError for such a header.
    """
    fed = _Lines(lines(blocks))
    csv.field_size_limit(LONGEST)
    columns: list[str] | None = None
    for where, values in _values(fed, name, delimiter or best_delimiter(fed.ahead(), quotes), quotes):
        if isinstance(values, Flaw):
            if columns is None:
                raise values.error()
            yield values
            continue
        named = columns is not None
        if columns is None:
            columns = _unique(values) if header else [str(number) for number in range(1, len(values) + 1)]
        if len(values) != len(columns):
            yield Flaw(where, f"{len(values)} {'value' if len(values) == 1 else 'values'}, but {len(columns)} columns")
        elif named or not header:
            yield Row(where, dict(zip(columns, values, strict=True)))


def best_delimiter(sample: list[str], quotes: bool | None) -> str:
    """The delimiter that gives most lines as many values as the first has, and more than one; else the comma."""

    def quality(delimiter: str) -> tuple[float, int]:
        try:
            widths = [len(row) for row in _reader(sample, delimiter, quotes, strict=False) if row]
        except csv.Error:
            return 0.0, 0
        if not widths or widths[0] < 2:
            return 0.0, 0
        return round(widths.count(widths[0]) / len(widths), 1), widths[0]

    return max(DELIMITERS, key=quality)


def _values(fed: _Lines, name: str, delimiter: str, quotes: bool | None) -> Iterator[tuple[str, list[str] | Flaw]]:
    """Where each row that is not empty begins, and its values."""
    rows = _reader(fed, delimiter, quotes, strict=True)
    while True:
        where = f"{name}, line {fed.number + 1:,}"
        fed.too_long = False
        try:
            values = next(rows)
        except StopIteration:
            return
        except csv.Error as err:
            yield where, Flaw(where, _TOO_LONG if fed.too_long else _explained(err))
            continue
        if fed.too_long:
            yield where, Flaw(where, _TOO_LONG)
        elif len(values) > 1 or "".join(values).strip():
            yield where, values


def _reader(source: Iterable[str], delimiter: str, quotes: bool | None, *, strict: bool) -> Iterator[list[str]]:
    quoted = delimiter != "\t" if quotes is None else quotes
    mode: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return csv.reader(source, delimiter=delimiter, quoting=mode, strict=strict)


class _Lines:
    """Lines for csv.reader, with their ends, that can be looked at ahead; it notes what was cut."""

    def __init__(self, source: Iterator[str]) -> None:
        self.source, self.waiting = source, deque[str]()
        self.number = 0
        self.too_long = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else next(self.source)
        self.number += 1
        self.too_long |= len(line) > LONGEST
        return line + "\n"

    def ahead(self) -> list[str]:
        """The first lines, without taking them away."""
        size = 0
        for line in islice(self.source, _LOOKED_AT):
            self.waiting.append(line)
            size += len(line)
            if size > LONGEST:
                break
        return [line + "\n" for line in self.waiting]


def _unique(names: list[str]) -> list[str]:
    """Names of columns: what has none, or one that is taken, is called by its number."""
    stripped = [name.strip() for name in names]
    return [name if name and name not in stripped[:place] else str(place + 1) for place, name in enumerate(stripped)]


def _explained(err: csv.Error) -> str:
    message = str(err)
    if "field larger" in message or "unexpected end of data" in message:
        return "a double quote begins a value here that never ends"
    if "expected after" in message:
        return "more text follows the double quote that ends a value"
    return message
