"""Poems as running text, from the JSON files of chinese-poetry: a list of objects with the lines as `paragraphs`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llmcli.data.cache import sha256_file
from llmcli.data.find_files import find
from llmcli.data.formats import json_list
from llmcli.data.formats.row import well_formed
from llmcli.data.published_files import PublishedFiles
from llmcli.data.readers.text_lines import blocks
from llmcli.data.records import Text
from llmcli.data.source import Report, TextSource, check_fractions, deal, split_names
from llmcli.errors import InputError

# what editors put between the lines: other readings, sources, authors
_NOTE = re.compile(r"（[^（）]*）|〖[^〖〗]*〗")


class Poems(TextSource):
    """A document for each poem, a line of it on each line.

    path: the files, a folder or archive of them, or a glob; None downloads them. names: a pattern for the names of
    those that are read. notes: keep what editors wrote between 〖〗 and round brackets. Splits are dealt by poem, and
    copies of one stay together. Raises InputError for files that are no such lists.
    """

    def __init__(
        self,
        *,
        path: str | None,
        urls: list[str],
        sha256: list[str],
        names: str,
        notes: bool,
        val_fraction: float,
        test_fraction: float,
        seed: int,
        eos: bool,
    ) -> None:
        super().__init__(eos=eos)
        check_fractions(val_fraction, test_fraction)
        self.names, self.notes = names, notes
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed
        self._own = None if path is None else find(path)
        self._published = PublishedFiles(path=None, urls={"poems": urls}, sha256={"poems": sha256})

    @property
    def splits(self) -> tuple[str, ...]:
        return split_names(self.val_fraction, self.test_fraction)

    def obtain(self, report: Report) -> None:
        if self._own is None:
            self._published.obtain(report)

    def missing(self) -> list[str]:
        return self._published.missing() if self._own is None else []

    def fingerprint(self) -> dict[str, Any]:
        return {
            "reader": "poems",
            "files": [sha256_file(file) for file in self._files],
            "names": self.names,
            "notes": self.notes,
            "split": [self.val_fraction, self.test_fraction, self.seed],
        }

    def describe(self) -> str:
        return self._files[0].parent.name if self._own else self._published.origin

    def records(self, split: str) -> Iterator[Text]:
        fractions = {"val_fraction": self.val_fraction, "test_fraction": self.test_fraction}
        return deal(self._poems(), split, seed=self.seed, **fractions)

    @property
    def _files(self) -> list[Path]:
        return self._published["poems"] if self._own is None else self._own

    def _poems(self) -> Iterator[Text]:
        found = False
        for name, text in blocks(self._files, "utf-8"):
            if self._own and not fnmatchcase(Path(name).name, self.names):
                continue
            found = True
            for row in json_list.read(text, name, root=None):
                lines = getattr(row, "values", {}).get("paragraphs")
                if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                    raise InputError(f'{row.where}: a poem must be an object with its lines in a list "paragraphs"')
                poem = well_formed("\n".join(lines))
                if poem := (poem if self.notes else _without_notes(poem)):
                    yield Text(poem + "\n")
        if not found:
            raise InputError(f"data.path: there are no files called {self.names}", "data.names=PATTERN")


def _without_notes(poem: str) -> str:
    """Notes go, those that hold others too; they may go on over lines."""
    removed = 1
    while removed:
        poem, removed = _NOTE.subn("", poem)
    return "\n".join(line.strip() for line in poem.split("\n") if line.strip())
