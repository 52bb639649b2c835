"""Files of text, line by line, for readers whose records are made of lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llmcli.data.decode import AUTO, encodings, lines, text_of
from llmcli.data.open_file import contents

KEY = "data.reader"


def blocks(files: Sequence[Path], encoding: str) -> Iterator[tuple[str, Iterator[str]]]:
    """The name of each file or member of an archive, and its text in blocks. encoding: "auto" finds it out."""
    found = encodings(files) if encoding == AUTO else {}
    for content in contents(files):
        yield content.name, text_of(content, encoding=found.get(content.name, encoding), key=f"{KEY}.encoding")


def numbered(files: Sequence[Path], encoding: str) -> Iterator[tuple[str, int, str]]:
    """The name of the file, the number from 1 and the text of every line; a line that is too long is cut."""
    for name, text in blocks(files, encoding):
        for number, line in enumerate(lines(text), start=1):
            yield name, number, line
