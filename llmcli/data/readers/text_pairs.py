"""A text and what it should become: two columns of a table, or two files with as many lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

from llmcli.data.decode import LONGEST
from llmcli.data.formats.row import Column, Row
from llmcli.data.reader import Flaw
from llmcli.data.readers.text_lines import numbered
from llmcli.data.records import Record, TextPair
from llmcli.data.rows import KEY, RowReader
from llmcli.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TextPairRows(RowReader):
    """source, target: the columns of the two texts.

    Files that come in twos, one with SOURCE and one with TARGET between the dots of its name (train.en and train.de.gz
    with source "en" and target "de"), are read side by side, line by line, instead.
    """

    record: ClassVar[type[TextPair]] = TextPair

    source: Column
    target: Column

    def example(self, row: Row) -> TextPair:
        return TextPair(row.text(self.source, f"{KEY}.source"), row.text(self.target, f"{KEY}.target"))

    def read(self, files: Sequence[Path]) -> Iterator[Record | Flaw]:
        sources, targets = (_called(side, files) for side in (self.source, self.target))
        if not sources or not targets:
            yield from super().read(files)
            return
        if len(sources) != len(targets) or len(sources) + len(targets) != len(files):
            counts = f"{len(sources)} are called {self.source} and {len(targets)} {self.target}"
            raise InputError(f"of {len(files)} parallel files {counts}", "each needs its counterpart, and no other")
        for pair in zip(sources, targets, strict=True):
            yield from self._parallel(*pair)

    def _parallel(self, source: Path, target: Path) -> Iterator[TextPair | Flaw]:
        """The lines of two files side by side. Raises InputError, with both counts, where one has more."""
        left, right = ((line for _, _, line in numbered([file], self.encoding)) for file in (source, target))
        with closing(left), closing(right):
            for number, (first, second) in enumerate(zip_longest(left, right), start=1):
                if first is None or second is None:
                    rest = 1 + sum(1 for _ in (left if second is None else right))
                    counts = (number - 1 + rest * (second is None), number - 1 + rest * (first is None))
                    raise InputError(
                        f"{source} has {counts[0]:,} lines and {target} has {counts[1]:,}: they are not parallel",
                        "each line of one file is what becomes of that line of the other",
                    )
                where = f"{source} and {target}, line {number:,}"
                if max(len(first), len(second)) > LONGEST:
                    yield Flaw(where, f"a line of more than {LONGEST:,} characters")
                elif not first.strip() or not second.strip():
                    yield Flaw(where, f"the {'target' if first.strip() else 'source'} is empty")
                else:
                    yield TextPair(first, second)


def _called(side: Column, files: Sequence[Path]) -> list[Path]:
    return [file for file in files if str(side).lower() in file.name.lower().split(".")]
