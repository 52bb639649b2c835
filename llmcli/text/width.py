"""Full-width and half-width forms: the wide letters, digits and marks of East Asian text, and their ASCII twins.

U+FF01 to U+FF5E are ASCII 0x21 to 0x7E at a distance of 0xFEE0; the ideographic space stands apart from them.
"""

from __future__ import annotations

from functools import cache

_DISTANCE = 0xFEE0
_SPACE, _WIDE_SPACE = " ", "\u3000"


def half_width(text: str, *, punctuation: bool, space: bool) -> str:
    """Full-width letters and digits become ASCII (Ａ１ -> A1), on request punctuation and the ideographic space too."""
    return text if text.isascii() else text.translate(_to_half(punctuation, space))


def full_width(text: str, *, punctuation: bool, space: bool) -> str:
    """ASCII letters and digits become full-width (A1 -> Ａ１), on request punctuation and the space too."""
    return text.translate({ord(half): chr(wide) for wide, half in _to_half(punctuation, space).items()})


@cache
def _to_half(punctuation: bool, space: bool) -> dict[int, str]:
    table = {code + _DISTANCE: chr(code) for code in range(0x21, 0x7F) if punctuation or chr(code).isalnum()}
    return {**table, ord(_WIDE_SPACE): _SPACE} if space else table
