"""Cleaning steps, text -> text, that keep the meaning: code points, line ends, case.

They see a long document piece by piece, so each must give the same for the pieces as for the whole.
"""

from __future__ import annotations

import unicodedata
from typing import Literal


def unicode_normalize(text: str, *, form: Literal["NFC", "NFD", "NFKC", "NFKD"]) -> str:
    """One code point sequence for what looks the same (Unicode Standard Annex 15)."""
    return unicodedata.normalize(form, text)


def unify_newlines(text: str) -> str:
    """CR LF and a lone CR become LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def lowercase(text: str) -> str:
    return text.lower()
