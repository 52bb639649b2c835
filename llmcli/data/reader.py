"""What makes records of files: one reader for each layout of data, and the word for what it cannot make one of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from llmcli.data.records import Record
from llmcli.errors import InputError


@dataclass(frozen=True)
class Flaw:
    """A place where a record should be and cannot be read, in the order of the records.

    where: like "reviews.csv, line 7". what: the reason, with the value that is wrong. hint: a way out other than to
    leave such records out.
    """

    where: str
    what: str
    hint: str = ""

    def error(self) -> InputError:
        return InputError(f"{self.where}: {self.what}", self.hint or "data.flaws=skip leaves such records out")


def options_of(reader: Any) -> list[Any]:
    """A reader's name and options in plain values."""
    return [f"{type(reader).__module__}.{type(reader).__qualname__}", asdict(reader)]


class Reader(Protocol):
    """Makes records of one kind from files. A frozen dataclass whose fields, plain values, are its options: with the
    content of the files they are all that its records depend on."""

    record: ClassVar[type[Record]]

    def read(self, files: Sequence[Path]) -> Iterator[Record | Flaw]:
        """The records of the files in a fixed order, one at a time in memory; the same again when called again.

        Raises InputError for a file that cannot be read at all: damaged, in another encoding, of another format.
        """
        ...
