"""Bytes to text: encodings, where one is not said, and lines."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from llmcli.data import open_file
from llmcli.data.open_file import Content, contents
from llmcli.errors import InputError, require

AUTO = "auto"
# what has an encoding of its own, or none
BINARY = frozenset({".parquet", ".pq", ".arrow", ".feather", ".epub", ".pdf", ".warc", ".wet"})
LONGEST = 1 << 24  # characters of one record, such as a line of a table
_SAMPLE = 1 << 16  # bytes that an encoding is guessed from
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # before utf-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_FEW = 8  # bytes that are no ASCII, from which on a codec can be told
# signs that every Chinese text is full of, and no other text that is taken for Chinese
_COMMON = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年，。！？：；（）《》"
)
# how accented letters mostly stand in Latin text, and letters of other scripts do not
_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([a-zA-Z0-9._-]+)""")
_ALONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
# codecs that charset-normalizer is asked about; more, and short texts come out as the rarest of them
_FOREIGN = ("gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1251", "koi8_r")


def check_encoding(encoding: str, key: str) -> None:
    """Raises InputError unless Python has a text encoding of this name, or it is "auto"."""
    try:
        known = encoding == AUTO or codecs.lookup(encoding)._is_text_encoding
    except LookupError:
        known = False
    if not known:
        raise InputError(f"{key}: there is no encoding called {encoding}", "e.g. utf-8, gb18030, latin-1, auto")


def text_of(content: Content, *, encoding: str, errors: str = "strict", key: str = "data.encoding") -> Iterator[str]:
    """The text of a content in blocks; line ends become "\\n" and a byte order mark goes.

    encoding: not "auto", which `encodings` finds out beforehand. Raises InputError naming the file for bytes that are
    not in it, with their offset, and `key`, which may say another.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(errors), translate=True)
    offset, beginning = 0, True
    while True:
        data = content.stream.read(open_file.BLOCK)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeError as err:
            raise _not_decodable(err, content.name, encoding, offset - pending, key) from err
        offset += len(data)
        if text and beginning:
            text, beginning = text.removeprefix("\ufeff"), False
        if text:
            yield text
        if not data:
            return


def lines(blocks: Iterable[str], limit: int = LONGEST) -> Iterator[str]:
    """A text's lines without their ends; of a line longer than `limit` the first `limit` + 1 characters."""
    held = ""
    for block in blocks:
        first, *others = block.split("\n")
        held = (held + first[: limit + 1])[: limit + 1]
        if others:
            yield held
            yield from (other[: limit + 1] for other in others[:-1])
            held = others[-1][: limit + 1]
    if held:
        yield held


def encodings(files: Sequence[Path]) -> MappingProxyType[str, str]:
    """The encoding of each content of the files, by its name: all that `encoding: auto` does.

    UTF-8 where every byte agrees, else what the byte order mark or a sample says. Remembered for as long as the files
    do not change.
    """
    stats = [open_file.real_file(file)[0].stat() for file in files]
    return _encodings(tuple(files), tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


def read_as(files: Sequence[Path]) -> str:
    """What was found out, in words that follow where a text is from: ", read as gb18030", nothing for UTF-8."""
    found = sorted(set(encodings(files).values()) - {"utf-8"})
    return f", read as {', '.join(found)}" if found else ""


@lru_cache(maxsize=64)
def _encodings(files: tuple[Path, ...], _: tuple[tuple[int, int], ...]) -> MappingProxyType[str, str]:
    texts = (content for content in contents(files) if content.suffix not in BINARY)
    return MappingProxyType({content.name: _encoding(content) for content in texts})


def _encoding(content: Content) -> str:
    data = content.stream.read(open_file.BLOCK)
    if wide := _marked(data) or _wide(data):
        return wide
    decoder, ascii_so_far = codecs.getincrementaldecoder("utf-8")(), True
    while data:
        try:
            ascii_so_far &= decoder.decode(data).isascii()
        except UnicodeDecodeError as err:
            around = err.object[max(0, err.start - 64) :] + content.stream.read(_SAMPLE)
            return guess(around[:_SAMPLE])
        data = content.stream.read(open_file.BLOCK)
    rest = decoder.getstate()[0]
    return guess(rest) if rest and ascii_so_far else "utf-8"


def _marked(data: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), "")


def _wide(data: bytes) -> str:
    """UTF-16 without a mark has a zero for every other byte of Latin text."""
    even, odd = data[: 1 << 12 : 2], data[1 : 1 << 12 : 2]
    for zeros, others, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros and zeros.count(0) > 0.4 * len(zeros) and others.count(0) < 0.1 * len(others):
            return encoding
    return ""


def page_text(data: bytes, charset: str = "") -> str:
    """The text of a web page: in UTF-8 where it is, else as its header `charset` or the page itself says, else guessed.
    What cannot be decoded becomes U+FFFD."""
    said = _CHARSET.search(data[:4096])
    for encoding in ("utf-8-sig", charset, said[1].decode("ascii") if said else ""):
        try:
            if encoding and codecs.lookup(encoding)._is_text_encoding:
                return data.decode(encoding)
        except (LookupError, UnicodeError, ValueError):
            continue
    return data.decode(_marked(data) or guess(data[:_SAMPLE]), "replace")


def guess(sample: bytes) -> str:
    """A likely encoding of bytes that are no UTF-8. Raises InputError where charset-normalizer is needed for it."""
    chinese = codecs.getincrementaldecoder("gb18030")("replace").decode(sample)
    foreign = [char for char in chinese if char > "\x7f"]
    kana = sum("\u3041" <= char <= "\u30ff" for char in foreign)
    if sum(char in _COMMON for char in foreign) > 0.08 * len(foreign) and kana < 0.1 * len(foreign):
        return "gb18030"
    high = sum(byte > 0x7F for byte in sample)
    if high >= _FEW and len(_ALONE.findall(sample)) < 0.6 * high:
        best = _best(sample)
        if best in _FOREIGN:
            return {"cp932": "shift_jis", "cp949": "euc-kr"}.get(best, best.replace("_", "-"))
    # C1 controls, which 0x80 to 0x9f are in latin-1, stand in no text
    return "cp1252" if any(0x80 <= byte <= 0x9F for byte in sample) and _decodes(sample, "cp1252") else "latin-1"


def _best(sample: bytes) -> str:
    """What charset-normalizer takes it for."""
    detector = require("charset_normalizer", extra="files", purpose="finding out what encoding a text is in")
    best = detector.from_bytes(sample, cp_isolation=[*_FOREIGN, "cp1252"]).best()
    return str(best.encoding) if best is not None else ""


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _not_decodable(err: UnicodeError, name: str, encoding: str, base: int, key: str) -> InputError:
    said = "UTF-8" if codecs.lookup(encoding).name == "utf-8" else encoding
    replace = f"; {key.rpartition('.')[0]}.errors=replace keeps going." if key == "data.encoding" else ""
    if not isinstance(err, UnicodeDecodeError):
        return InputError(f"{name} is not {said}: {err}", f"{key}={AUTO} finds out which it is{replace}")
    before = err.object[max(err.start - 12, 0) : err.start].decode(encoding, "ignore").split("\n")[-1]
    message = (
        f"{name} is not {said}: byte 0x{err.object[err.start]:02x} at offset {base + err.start:,} "
        f'("{before.split(" ")[-1]}?").'
    )
    try:
        likely = (_marked(err.object) if base == 0 else "") or guess(
            err.object[max(0, err.start - 64) : err.start + _SAMPLE]
        )
    except InputError as missing:
        return InputError(message, missing.hint)
    return InputError(f"{message} It looks like {likely}.", f"{key}={likely} reads it{replace}")
