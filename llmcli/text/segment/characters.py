"""Characters as a reader sees them: a letter with its accents, an emoji with its parts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

from llmcli.text.segment.base import UNSPACED, Segmenter

# of which most text is: none attaches to the character before it, so between two of them is always a cut
_PLAIN_UNSPACED = "\u3001-\u3029\u4e00-\u9fff\uff01-\uff65"
_PLAIN = f"\x21-\x7e{_PLAIN_UNSPACED}"
PLAIN_UNSPACED = rf"[{_PLAIN_UNSPACED}](?=[{_PLAIN}\s]|\Z)"
_JOINER = "\u200d"
_PICTOGRAPH = "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d"
_PICTOGRAPH += "\u3297\u3299\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff"
_FLAG_LETTER = "\U0001f1e6-\U0001f1ff"
_CONTROL = "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
_SKIN_OR_TAG = "\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"
_INITIAL, _VOWEL, _FINAL = "\u1100-\u115f\ua960-\ua97c", "\u1160-\u11a7\ud7b0-\ud7c6", "\u11a8-\u11ff\ud7cb-\ud7fb"


class Characters(Segmenter):
    """Single characters: extended grapheme clusters (Unicode Standard Annex 29), white space left out.

    Of the Annex's rules two are not followed: those for Indic conjuncts and for prepended marks. keep_words: a run of
    letters and digits of a script with spaces stays whole ("iPhone", "2024"), as is usual where Chinese is scored by
    character.
    """

    def __init__(self, *, keep_words: bool) -> None:
        self.keep_words = keep_words
        self._pattern = re.compile(f"{run()}|{grapheme()}" if keep_words else grapheme())

    def __call__(self, text: str) -> list[str]:
        return self._pattern.findall(text)

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in self._pattern.finditer(text)]

    def join(self, parts: Sequence[str]) -> str:
        return super().join(parts) if self.keep_words else "".join(parts)

    def settings(self) -> dict[str, Any]:
        return {"keep_words": self.keep_words}


@cache
def run() -> str:
    """The pattern of letters, digits and underscores of scripts with spaces, with their accents and vowel signs."""
    return rf"[^\W{UNSPACED}]++(?:(?=[^\0-\u02ff])[{_marks()}{_JOINER}]++[^\W{UNSPACED}]*+)*+"


@cache
def grapheme() -> str:
    """The pattern of one character that is not white space."""
    marks = f"[{_marks()}{_JOINER}{_SKIN_OR_TAG}]*+"
    with_vowel = "".join(map(chr, range(0xAC00, 0xD7A4, 28)))  # Korean syllables without a final consonant
    syllable = f"[{_INITIAL}]*+(?:[{with_vowel}][{_VOWEL}]*+|[\uac00-\ud7a3]|[{_VOWEL}]++)[{_FINAL}]*+"
    emoji = f"[{_PICTOGRAPH}]{marks}(?:(?<={_JOINER})[{_PICTOGRAPH}]{marks})*+"
    control = f"(?=[{_CONTROL}])\\S"
    plain = rf"[{_PLAIN}](?=[{_PLAIN}\s]|\Z)"
    other = f"(?:[{_FLAG_LETTER}]{{2}}|{syllable}|[{_INITIAL}]++|[{_FINAL}]++|\\S){marks}"
    return f"{plain}|(?!\\s)(?:{control}|{emoji}|{other})"


@cache
def _marks() -> str:
    """The inside of a character class: what attaches to the character before it."""
    codes = [*range(0x20000), *range(0xE0100, 0xE01F0)]  # no marks in between
    marks = [code for code in codes if unicodedata.category(chr(code)) in ("Mn", "Me", "Mc")]
    marks += [0x200C, 0x0E33, 0x0EB3, 0xFF9E, 0xFF9F]  # non-joiner, Thai and Lao am, voice marks of half-width kana
    ranges: list[list[int]] = []
    for code in sorted(marks):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
