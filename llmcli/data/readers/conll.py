"""Columns in the manner of CoNLL: a token on a line with its tags, and an empty line after each sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from llmcli.data.decode import LONGEST, check_encoding
from llmcli.data.reader import Flaw
from llmcli.data.readers.tag_schemes import SCHEMES, to_iob2
from llmcli.data.readers.text_lines import KEY, numbered
from llmcli.data.records import TaggedTokens
from llmcli.errors import InputError

DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True, kw_only=True)
class ConllColumns:
    """token, tag: their columns, counted from 1, or from the end with -1 for the last. separator: between columns;
    None: white space. scheme: how tags mark spans ("none": they do not, as parts of speech); "auto" reads every scheme.
    comment: lines that begin with it are passed over; None: there are none. encoding: "auto" finds it out.

    A sentence with a line that lacks a column, or with tags that the scheme does not allow, is a flaw.
    """

    record: ClassVar[type[TaggedTokens]] = TaggedTokens

    token: int
    tag: int
    scheme: Literal["auto", "iob1", "iob2", "bioes", "bmes", "none"]
    separator: str | None
    comment: str | None
    encoding: str

    def __post_init__(self) -> None:
        for name, column in (("token", self.token), ("tag", self.tag)):
            if column == 0:
                raise InputError(f"{KEY}.{name} (0) must be a column: 1 is the first, -1 the last")
        if self.scheme not in SCHEMES:
            raise InputError(f"{KEY}.scheme ({self.scheme}) must be one of {', '.join(SCHEMES)}")
        for name, text in (("separator", self.separator), ("comment", self.comment)):
            if text == "":
                raise InputError(f"{KEY}.{name} must be characters, or null")
        check_encoding(self.encoding, f"{KEY}.encoding")

    def read(self, files: Sequence[Path]) -> Iterator[TaggedTokens | Flaw]:
        sentence: list[tuple[int, str]] = []
        name, size = "", 0
        for file, number, line in numbered(files, self.encoding):
            if sentence and (file != name or not line.strip() or size > LONGEST):
                yield from self._sentence(sentence, name)
                sentence, size = [], 0
            name = file
            if line.strip() and not (self.comment and line.startswith(self.comment)):
                sentence.append((number, line))
                size += len(line)
        if sentence:
            yield from self._sentence(sentence, name)

    def _sentence(self, lines: list[tuple[int, str]], name: str) -> Iterator[TaggedTokens | Flaw]:
        where = f"{name}, line {lines[0][0]:,}"
        if sum(len(line) for _, line in lines) > LONGEST:
            yield Flaw(where, f"a sentence of more than {LONGEST:,} characters: no empty line ends it")
            return
        tokens, tags = [], []
        for number, line in lines:
            columns = line.split(self.separator)
            if columns[0].strip() == DOCUMENT:
                continue
            if max(_needed(self.token), _needed(self.tag)) > len(columns):
                yield Flaw(f"{name}, line {number:,}", _lacking(columns, self.token, self.tag))
                return
            token, tag = (columns[_index(column)].strip() for column in (self.token, self.tag))
            if not token or not tag:
                yield Flaw(f"{name}, line {number:,}", f"the {'tag' if token else 'token'} is empty")
                return
            tokens.append(token)
            tags.append(tag)
        if tokens:
            try:
                yield TaggedTokens(tuple(tokens), to_iob2(tags, self.scheme))
            except ValueError as err:
                yield Flaw(where, str(err), f"{KEY}.scheme=auto reads them; data.flaws=skip leaves such sentences out")


def _index(column: int) -> int:
    return column - 1 if column > 0 else column


def _needed(column: int) -> int:
    return abs(column)


def _lacking(columns: list[str], token: int, tag: int) -> str:
    count = f"{len(columns)} column{'' if len(columns) == 1 else 's'}"
    return f"{count}, but token is in column {token} and tag in column {tag}"
