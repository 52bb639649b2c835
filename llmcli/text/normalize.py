"""Cleaning steps, text -> text, that keep the meaning: code points, encodings, line ends, white space, case."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Literal

from llmcli.errors import InputError, require

# Control characters but tab, newline and carriage return; soft hyphen; zero-width and bidirectional marks; annotation
# anchors; byte order mark; tags and non-characters. Emoji flags of regions are tag sequences and become plain flags.
_INVISIBLE = (
    "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufdd0-\ufdef"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0001\U000e0020-\U000e007f"
)
# what Unicode calls a mandatory break (UAX 14), and the information separators that Python also takes for one
_BREAKS = "\v\f\x1c-\x1e\x85\u2028\u2029"
_SURROGATES = "\ud800-\udfff"
_CONTROL = re.compile(f"[{_INVISIBLE}{_BREAKS}{_SURROGATES}]")
_BLANKS = " \t\v\f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # white space but newline
_UNTIDY = re.compile(f"[{_BLANKS[1:]}]|  | \n|\n ")
_RUN = re.compile(f"[{_BLANKS}]++")
_TRAILING = re.compile(f"(?<![{_BLANKS}])[{_BLANKS}]++(?=\n)")
_INNER_RUN = re.compile(f"(?!\\A)(?<![\n{_BLANKS}])[{_BLANKS}]++")


def unicode_normalize(text: str, *, form: Literal["NFC", "NFD", "NFKC", "NFKD"]) -> str:
    """One code point sequence for what looks the same (Unicode Standard Annex 15)."""
    return unicodedata.normalize(form, text)


def fix_mojibake(
    text: str,
    *,
    replace_lossy_sequences: bool,
    decode_inconsistent_utf8: bool,
    restore_byte_a0: bool,
    fix_c1_controls: bool,
) -> str:
    """Repair lines that were decoded with the wrong encoding (`Ã©` for `é`), as ftfy does (Speer 2019).

    The options carry ftfy's names; its fixers that have nothing to do with encodings are not used.
    """
    if text.isascii():
        return text
    ftfy = require("ftfy", extra="text", purpose="clean=[mojibake]")
    # fix_text, which splits lines itself, does not hand the options on (ftfy 6.3)
    settings = ftfy.TextFixerConfig(
        replace_lossy_sequences=replace_lossy_sequences,
        decode_inconsistent_utf8=decode_inconsistent_utf8,
        restore_byte_a0=restore_byte_a0,
        fix_c1_controls=fix_c1_controls,
    )
    lines = text.split("\n")
    return "\n".join(line if line.isascii() else ftfy.fix_encoding(line, settings) for line in lines)


def remove_control(text: str, *, keep: str) -> str:
    """Control, zero-width and bidirectional characters, byte order marks and soft hyphens go.

    Tab, newline and carriage return stay, and so do the characters of `keep`. Other kinds of line break become a
    newline, halves of surrogate pairs, which no file can hold, U+FFFD.
    """
    return text.translate(_control_table(keep)) if _CONTROL.search(text) else text


@cache
def _control_table(keep: str) -> dict[int, str]:
    """What to replace each character by."""
    changes = ((_INVISIBLE, ""), (_BREAKS, "\n"), (_SURROGATES, "\ufffd"))
    table = {code: new for characters, new in changes for code in _codes(characters)}
    return {code: new for code, new in table.items() if chr(code) not in keep}


def _codes(characters: str) -> Iterator[int]:
    """The code points of a regex class such as "a-fx"."""
    for first, last in re.findall("(.)(?:-(.))?", characters, re.DOTALL):
        yield from range(ord(first), ord(last or first) + 1)


def unify_newlines(text: str) -> str:
    """CR LF and a lone CR become LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def collapse_whitespace(text: str, *, max_newlines: int, keep_indent: bool) -> str:
    """One space for a run of white space, none at the ends of lines, at most `max_newlines` line ends in a row.

    White space is what Unicode says, the ideographic and no-break spaces too. The text's first characters are no white
    space afterwards; at its end one space stays, because the next piece of a long document may go on there.
    `keep_indent` leaves what stands before a line's first word. Raises InputError for max_newlines below 1.
    """
    if max_newlines < 1:
        raise InputError(f"clean.whitespace.max_newlines ({max_newlines}) must be at least 1")
    if indent := len(text) - len(text.lstrip()):
        text = text[text.rfind("\n", 0, indent) + 1 :] if keep_indent else text[indent:]
    if _UNTIDY.search(text):
        if keep_indent:
            text = _INNER_RUN.sub(" ", _TRAILING.sub("", text))
        else:
            text = _RUN.sub(" ", text).replace(" \n", "\n").replace("\n ", "\n")
    too_many = "\n" * (max_newlines + 1)
    return re.sub(f"{too_many}+", too_many[1:], text) if too_many in text else text


def lowercase(text: str) -> str:
    return text.lower()
