"""Text files of the user's own: one file, a folder or a glob; plain, .gz, .xz, .jsonl."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from llmcli.data.cache import sha256_file
from llmcli.data.find_files import find
from llmcli.data.readers.stream import LINE, blocks, paragraphs, parts, pieces
from llmcli.data.records import Text
from llmcli.data.source import TextSource, check_fractions, deal, plain_size, split_names, stretch, tail_bounds
from llmcli.errors import InputError
from llmcli.text.normalize import unify_newlines

# with fewer files than this, a hash may leave a small split without any document
FEW_FILES = 100


class TextFiles(TextSource):
    """Documents from the user's files, in the order of their names.

    path: a file, a folder (read with its sub-folders) or a glob. key: the field of a .jsonl record that holds
    the text. document: what is one document (a .jsonl record always is). split: "document" deals whole
    documents by a hash, "position" takes val and test from the end of the text, "auto" is "position" for a
    few whole files.

    Raises InputError for a path with nothing to read, unknown options, and text that cannot be decoded or
    parsed.
    """

    def __init__(
        self,
        *,
        path: str | None,
        encoding: str,
        errors: Literal["strict", "replace"],
        key: str,
        document: Literal["file", "line", "paragraph"],
        split: Literal["auto", "document", "position"],
        val_fraction: float,
        test_fraction: float,
        seed: int,
        eos: bool,
    ) -> None:
        super().__init__(eos=eos)
        check_fractions(val_fraction, test_fraction)
        for name, value, known in (
            ("errors", errors, ("strict", "replace")),
            ("document", document, ("file", "line", "paragraph")),
            ("split", split, ("auto", "document", "position")),
        ):
            if value not in known:
                raise InputError(f"data.{name} ({value}) must be one of {', '.join(known)}")
        try:
            codecs.lookup(encoding)
        except LookupError as err:
            raise InputError(f"data.encoding: there is no encoding called {encoding}", "e.g. utf-8, latin-1") from err
        if path is None:
            raise InputError(
                "data=text needs to know which text", "data.path=FILE, data.path=FOLDER or data.path='*.txt'"
            )
        self.files = find(path)
        self.encoding, self.errors, self.key, self.document = encoding, errors, key, document
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed
        if split == "auto":
            few = document == "file" and len(self.files) < FEW_FILES and not any(map(_is_jsonl, self.files))
            split = "position" if few else "document"
        self.split = split
        self._characters: int | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return split_names(self.val_fraction, self.test_fraction)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "reader": "text",
            "files": [sha256_file(file) for file in self.files],
            "encoding": self.encoding,
            "errors": self.errors,
            "key": self.key,
            "document": self.document,
            "split": [self.split, self.val_fraction, self.test_fraction, self.seed],
        }

    def size(self, split: str) -> int | None:
        size = plain_size(self.files)
        others = {"val": self.val_fraction, "test": self.test_fraction}
        return None if size is None else round(size * others.get(split, 1 - sum(others.values())))

    def describe(self) -> str:
        return self.files[0].name if len(self.files) == 1 else f"{len(self.files):,} files"

    def records(self, split: str) -> Iterator[Text]:
        if self.split == "document":
            fractions = {"val_fraction": self.val_fraction, "test_fraction": self.test_fraction}
            return deal(self._all(), split, seed=self.seed, **fractions)
        if self._characters is None:
            self._characters = sum(len(piece.text) for piece in self._all())
        return stretch(self._all(), *tail_bounds(self._characters, self.val_fraction, self.test_fraction)[split])

    def _all(self) -> Iterator[Text]:
        for file in self.files:
            text = blocks(file, encoding=self.encoding, errors=self.errors)
            if _is_jsonl(file):
                yield from self._records(file, text)
            elif self.document == "file":
                yield from pieces(text)
            else:
                yield from self._parts(text)

    def _parts(self, text: Iterator[str]) -> Iterator[Text]:
        cut = parts(text, LINE) if self.document == "line" else paragraphs(text)
        # the end-of-text token stands for the separator; without one the text keeps it
        joint = "" if self.eos else "\n" if self.document == "line" else "\n\n"
        beginning = True
        for piece in cut:
            if not (beginning and piece.end and not piece.text.strip()):
                yield Text(piece.text + joint) if piece.end else piece
            beginning = piece.end

    def _records(self, file: Path, text: Iterator[str]) -> Iterator[Text]:
        held = ""
        number = 0
        for piece in parts(text, LINE):
            held += piece.text
            if not piece.end:
                continue
            number += 1
            line, held = held, ""
            if line.strip():
                yield from pieces([unify_newlines(self._field(line, f"{file}, line {number:,}"))])

    def _field(self, line: str, where: str) -> str:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as err:
            raise InputError(f"{where}: not a JSON record: {err.msg} at column {err.colno:,}") from err
        if not isinstance(record, dict):
            raise InputError(f"{where}: a record must be an object with fields, not {line[:20]}")
        if self.key not in record:
            have = ", ".join(record) or "none"
            raise InputError(f'{where}: no field "{self.key}"; the fields are: {have}', "data.key=FIELD chooses one")
        value = record[self.key]
        if not isinstance(value, str):
            raise InputError(f'{where}: field "{self.key}" must be text, not {json.dumps(value)[:40]}')
        return value


def _is_jsonl(path: Path) -> bool:
    return ".jsonl" in path.suffixes[-2:]
