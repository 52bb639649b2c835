"""The documentation that comes with Python: text to learn from that is already on this machine.

The language reference is in `pydoc_data.topics`; the rest are the docstrings of the standard library. Both
are parsed from source files; nothing is imported, so nothing runs.
"""

from __future__ import annotations

import ast
import hashlib
import platform
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from llmcli.data.readers.python import files
from llmcli.data.readers.stream import pieces
from llmcli.data.records import Text
from llmcli.data.source import TextSource, check_fractions, deal, split_names
from llmcli.errors import InputError

# how the text is made from the source files; a change makes prepared data out of date
VERSION = 1
TOPICS = Path("pydoc_data", "topics.py")


class PythonDocs(TextSource):
    """A document for each topic of the language reference and each docstring of the standard library.

    Splits are dealt by document. A distribution that leaves the topics out gives the docstrings alone, and
    `describe` says so. Raises InputError where the standard library has no source files.
    """

    def __init__(
        self,
        *,
        val_fraction: float,
        test_fraction: float,
        seed: int,
        eos: bool,
    ) -> None:
        super().__init__(eos=eos)
        check_fractions(val_fraction, test_fraction)
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed
        self.library = files.stdlib()
        self.files = sorted(files.source_files(self.library))
        self.topics = self.library / TOPICS
        if not self.files:
            raise InputError(
                f"the standard library in {self.library} has no source files to read",
                "data=text data.path=FILE reads your own text",
            )

    @property
    def splits(self) -> tuple[str, ...]:
        return split_names(self.val_fraction, self.test_fraction)

    def fingerprint(self) -> dict[str, Any]:
        content = hashlib.sha256()
        for file in [*self._topic_files(), *self.files]:
            content.update(hashlib.sha256(file.read_bytes()).digest())
        return {
            "reader": "python_docs",
            "version": VERSION,
            "python": platform.python_version(),
            "files": content.hexdigest(),
            "split": [self.val_fraction, self.test_fraction, self.seed],
        }

    def describe(self) -> str:
        note = "" if self._topic_files() else ", without the language reference"
        return f"Python {platform.python_version()}{note}"

    def records(self, split: str) -> Iterator[Text]:
        return deal(
            (piece for text in self._texts for piece in pieces([text])),
            split,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            seed=self.seed,
        )

    def _topic_files(self) -> list[Path]:
        return [self.topics] if self.topics.is_file() else []

    @cached_property
    def _texts(self) -> list[str]:
        # some 3 MB, and parsing takes seconds while every split is read at least once
        return list(dict.fromkeys(self._all()))

    def _all(self) -> Iterator[str]:
        for file in self._topic_files():
            yield from _topics(files.parse(file))
        for file in self.files:
            yield from _docstrings(files.parse(file), files.module_name(file.relative_to(self.library)))


def _topics(tree: ast.Module) -> Iterator[str]:
    """The texts of the one dictionary in pydoc_data.topics."""
    for statement in tree.body:
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Dict):
            for text in ast.literal_eval(value).values():
                yield text.strip() + "\n"


def _docstrings(tree: ast.Module, module: str) -> Iterator[str]:
    """Each documented object under a line that says what it is, in the order of the source."""
    for node, name in files.documented(tree, module):
        text = ast.get_docstring(node)
        if text:
            yield f"{files.heading(node, name)}\n\n{text.strip()}\n"
