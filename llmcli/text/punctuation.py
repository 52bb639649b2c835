"""Punctuation of English and Chinese: removed, or Chinese marks written as ASCII."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

Language = Literal["en", "zh"]


def _characters(codes: Iterable[int]) -> str:
    return "".join(map(chr, codes))


# ASCII, Latin-1 and the General Punctuation block; CJK Symbols, vertical and small forms, full-width forms
_MARKS: dict[Language, str] = {
    "en": string.punctuation + "¡§«¶·»¿" + _characters((*range(0x2010, 0x2028), *range(0x2030, 0x205F))),
    "zh": "·—…‘’“”〃〝〞〟〰〽・"
    + _characters((*range(0x3001, 0x3003), *range(0x3008, 0x3012), *range(0x3014, 0x301C), *range(0xFE30, 0xFE6C)))
    + "".join(filter(lambda mark: not mark.isalnum(), _characters(range(0xFF01, 0xFF66)))),
}
_ASCII = str.maketrans(
    {
        **dict(zip("，、。｡；：？！（）【】［］｛｝〔〕〖〗", ",,..;:?!()[][]{}[][]", strict=True)),
        **dict.fromkeys("“”„‟「」『』〝〞〟＂", '"'),
        **dict.fromkeys("‘’‚‛＇", "'"),
        **dict(zip("《》〈〉＜＞～·／＼％＃＆＊＋－＝＠—–", "<><><>~./\\%#&*+-=@--", strict=True)),
        "…": "...",
    }
)
_BEFORE_LETTER = re.compile(r"(?<=[，、。｡；：？！])(?=[^\W\d_])")


def remove_punctuation(text: str, *, languages: Sequence[Language], keep: str, replacement: str) -> str:
    """The marks of these languages become `replacement`, but for the characters in `keep`."""
    return text.translate(_removal(tuple(languages), keep, replacement))


@cache
def _removal(languages: tuple[Language, ...], keep: str, replacement: str) -> dict[int, str]:
    return {ord(mark): replacement for language in languages for mark in _MARKS[language] if mark not in keep}


def ascii_punctuation(text: str, *, space_after: bool) -> str:
    """Chinese and typographic marks become ASCII: 。 a full stop, 《》 angle brackets, …… three dots.

    `space_after`: a space after a Chinese , . ; : ? ! that a letter follows, as English has it.
    """
    if text.isascii():
        return text
    if space_after:
        text = _BEFORE_LETTER.sub(" ", text)
    return text.replace("……", "…").translate(_ASCII)
