"""Files as streams of text, and those as documents. Memory stays at about one piece, whatever the file."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from llmcli.data.records import Text
from llmcli.errors import InputError

PIECE = 1 << 20  # characters
BLOCK = 1 << 20  # bytes
LINE = re.compile(r"\n")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_LEADING_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed where the name ends in .gz or .xz."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    return path.open("rb")


def blocks(path: Path, *, encoding: str, errors: str) -> Iterator[str]:
    """The text of a file in blocks; line ends become "\\n" and a byte order mark goes.

    Raises InputError naming the file for bytes that are not in `encoding` (with their offset in the
    decompressed stream), and for a compressed file that is cut short or damaged.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(errors), translate=True)
    offset, beginning = 0, True
    with open_bytes(path) as file:
        while True:
            data = _read(file, path)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as err:
                raise _not_decodable(err, path, encoding, offset - pending) from err
            offset += len(data)
            if text and beginning:
                text, beginning = text.removeprefix("\ufeff"), False
            if text:
                yield text
            if not data:
                return


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
    """Where to cut text longer than `limit`: after a newline, else after white space, else at the limit."""
    newline = text.rfind("\n", 0, limit) + 1
    return newline or max(text.rfind(" ", 0, limit), text.rfind("\t", 0, limit)) + 1 or limit


def _read(file: IO[bytes], path: Path) -> bytes:
    try:
        return file.read(BLOCK)
    except EOFError as err:
        raise InputError(
            f"{path} is cut short: its compressed data ends too early", "copy or download it again"
        ) from err
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error) as err:
        raise InputError(f"{path} is not a whole {path.suffix} file: {err}", "copy or download it again") from err


def _not_decodable(err: UnicodeDecodeError, path: Path, encoding: str, base: int) -> InputError:
    before = err.object[max(err.start - 12, 0) : err.start].decode(encoding, "ignore").split("\n")[-1]
    guess = _guess(err.object[err.start : err.start + 4096], err.object[:2] if base == 0 else b"")
    name = "UTF-8" if codecs.lookup(encoding).name == "utf-8" else encoding
    return InputError(
        f"{path} is not {name}: byte 0x{err.object[err.start]:02x} at offset {base + err.start:,} "
        f'("{before.split(" ")[-1]}?"). It looks like {guess}.',
        f"data.encoding={guess} reads it; data.errors=replace keeps going.",
    )


def _guess(sample: bytes, start: bytes) -> str:
    """A likely encoding of bytes that were not what was expected."""
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    text = codecs.getincrementaldecoder("gb18030")("replace").decode(sample)
    foreign = [char for char in text if char > "\x7f"]
    chinese = sum("\u4e00" <= char <= "\u9fff" or "\u3000" <= char <= "\u303f" or char >= "\uff00" for char in foreign)
    # latin-1 text read as Chinese pairs an accented letter with the ASCII after it, or cannot be read
    high = sum(byte > 0x7F for byte in sample)
    return "gb18030" if chinese > 0.9 * len(foreign) and high > 1.5 * chinese else "latin-1"
