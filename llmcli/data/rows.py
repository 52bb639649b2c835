"""Readers of tables and of lists of objects: whatever the format, a row makes a record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from llmcli.data.decode import AUTO, check_encoding, encodings, text_of
from llmcli.data.formats import columnar, delimited, json_lines, json_list
from llmcli.data.formats.row import Row
from llmcli.data.open_file import Content, contents
from llmcli.data.reader import Flaw
from llmcli.data.records import Record
from llmcli.errors import InputError

KEY = "data.reader"
_FORMATS = {
    ".csv": "csv",
    ".txt": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_SHEETS = (".xls", ".xlsx", ".ods", ".numbers")


@dataclass(frozen=True, kw_only=True)
class RowReader(ABC):
    """Makes a record of every row of a table (CSV, TSV, Parquet, Arrow) or object of a list (JSON lines, JSON).

    format: "auto" is what the file's name ends in. encoding: of text; "auto" finds it out. delimiter: of CSV and TSV;
    None finds it out. quotes: whether values of CSV and TSV stand in double quotes where they need to; None: unless
    tabs are between them. header: whether the first row of CSV and TSV names the columns, which are 1, 2, 3, ... where
    it does not. root: the key of the list of records in a JSON file; None: its only list.

    A ValueError from `example` makes the row a flaw. Raises InputError for options that cannot be.
    """

    record: ClassVar[type[Record]]

    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "arrow"]
    encoding: str
    delimiter: str | None
    quotes: bool | None
    header: bool
    root: str | None

    def __post_init__(self) -> None:
        known = sorted({AUTO, *_FORMATS.values()})
        if self.format not in known:
            raise InputError(f"{KEY}.format ({self.format}) must be one of {', '.join(known)}")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\n\r'):
            raise InputError(f"{KEY}.delimiter ({self.delimiter!r}) must be one character")
        check_encoding(self.encoding, f"{KEY}.encoding")

    @abstractmethod
    def example(self, row: Row) -> Record:
        """The record of a row. Raises ValueError, with what is wrong, where there is none."""

    def read(self, files: Sequence[Path]) -> Iterator[Record | Flaw]:
        for row in self.rows(files):
            yield row if isinstance(row, Flaw) else self.made_of(row)

    def made_of(self, row: Row) -> Record | Flaw:
        try:
            return self.example(row)
        except ValueError as err:
            return Flaw(row.where, str(err), getattr(err, "hint", ""))

    def rows(self, files: Sequence[Path]) -> Iterator[Row | Flaw]:
        """The rows of the files, one after the other."""
        found = encodings(files) if self.encoding == AUTO else {}
        for content in contents(files):
            yield from self._rows(content, found.get(content.name, self.encoding))

    def _rows(self, content: Content, encoding: str) -> Iterator[Row | Flaw]:
        kind = _kind(content) if self.format == AUTO else self.format
        if kind == "parquet":
            return columnar.read_parquet(content)
        if kind == "arrow":
            return columnar.read_arrow(content)
        blocks = text_of(content, encoding=encoding, key=f"{KEY}.encoding")
        if kind == "jsonl":
            return json_lines.read(blocks, content.name)
        if kind == "json":
            return json_list.read(blocks, content.name, root=self.root)
        delimiter = self.delimiter or ("\t" if kind == "tsv" else None)
        return delimited.read(blocks, content.name, delimiter=delimiter, quotes=self.quotes, header=self.header)


def _kind(content: Content) -> str:
    if content.suffix in _FORMATS:
        return _FORMATS[content.suffix]
    if content.suffix in _SHEETS:
        raise InputError(f"{content.name} is a spreadsheet", "save it as CSV with the program that made it")
    formats = ", ".join(sorted(set(_FORMATS.values())))
    ends = f"ends in {content.suffix}" if content.suffix else "has no ending"
    raise InputError(f"{content.name} {ends}, which says nothing of its format", f"{KEY}.format= one of {formats}")
