"""Files as streams of text, and those as documents. Memory stays at about one piece, whatever the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmcli.data.decode import text_of
from llmcli.data.open_file import contents
from llmcli.data.records import Text

PIECE = 1 << 20  # characters
LINE = re.compile(r"\n")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
# Where a long document is cut, the best first: after a newline or before a space where no subword lies across, so that
# its ids are those of the whole; after a newline; after white space. Each ends before a character that it looks at.
_CUTS = tuple(
    re.compile(pattern, re.DOTALL) for pattern in (r".*\n(?=[^\W\d_]| )", r".*\n(?=.)", r".*[^ ](?= )", r".*[ \t](?=.)")
)
_LEADING_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")


def blocks(path: Path, *, encoding: str, errors: str) -> Iterator[str]:
    """The text of a file in blocks, as `text_of` gives it; of an archive, that of its members one after the other."""
    for content in contents([path]):
        yield from text_of(content, encoding=encoding, errors=errors)


def pieces(stream: Iterable[str], limit: int = PIECE) -> Iterator[Text]:
    """One document from a stream of its text, in pieces of up to `limit` characters; none if it is empty."""
    held = ""
    for block in stream:
        held += block
        while len(held) > limit:
            at = _cut(held, limit)
            yield Text(held[:at], end=False)
            held = held[at:]
    if held:
        yield Text(held)


def parts(stream: Iterable[str], separator: re.Pattern[str], limit: int = PIECE) -> Iterator[Text]:
    """A stream cut at `separator`, which is dropped: documents, empty ones too; long ones in pieces."""
    held = ""
    for block in stream:
        *complete, held = separator.split(held + block)
        for text in complete:
            yield from pieces([text], limit) if len(text) > limit else [Text(text)]
        while len(held) > limit:
            at = _cut(held, limit)
            yield Text(held[:at], end=False)
            held = held[at:]
    if held:
        yield Text(held)


def paragraphs(stream: Iterable[str], limit: int = PIECE) -> Iterator[Text]:
    """A stream cut at blank lines, which are dropped."""
    beginning = True
    for piece in parts(stream, _BLANK_LINES, limit):
        text = piece.text
        if beginning and (blank := _LEADING_BLANK_LINES.match(text)):  # the rest of a cut that two blocks share
            text = text[blank.end() :]
        if piece.end:
            text = text.removesuffix("\n")
        if not (beginning and piece.end and not text.strip()):
            yield Text(text, piece.end)
        beginning = piece.end


def _cut(text: str, limit: int) -> int:
    """Where to cut text longer than `limit`: at the last of the best places, else at the limit."""
    found = (pattern.match(text, 0, limit + 1) for pattern in _CUTS)
    return next((match.end() for match in found if match), limit)
