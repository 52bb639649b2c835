"""Spelling of English words, by SymSpell (Garbe 2012) and its frequency list of 82,765 words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import as_file, files
from typing import Any

from llmcli.errors import InputError, require

# letters between white space, with nothing but punctuation around: no part of an address, a path, a compound
_WORD = re.compile(r"(?<![^\s\"'“‘(\[])[A-Za-z]+(?=[.,;:!?)\]\"'”’]*(?:\s|\Z))")
_FARTHEST = 3  # an index for more is too large, and what it finds too different
_REMEMBERED = 1 << 16  # words


def correct_spelling(
    text: str, *, max_edit_distance: int, min_length: int, capitalized: bool, keep: Sequence[str]
) -> str:
    """The text with each English word that is not in the list replaced by the nearest that is.

    Of several equally near (insertions, deletions, substitutions and swaps of neighbours) the most frequent is taken; a
    word without one within max_edit_distance stays. Numbers, punctuation, other languages, addresses, identifiers and
    words shorter than min_length stay; so do words with capitals, which are mostly names, unless `capitalized`: then
    words with a first capital, or in capitals alone, are corrected and keep their case. The list spells as the British
    do (labor becomes labour) and knows few terms of any trade; `keep` are words that stay.

    Raises InputError for a max_edit_distance outside 1 to 3, and without the package symspellpy.
    """
    if not 1 <= max_edit_distance <= _FARTHEST:
        raise InputError(f"clean.spelling.max_edit_distance ({max_edit_distance}) must be from 1 to {_FARTHEST}")

    kept = {word.lower() for word in keep}

    def corrected(match: re.Match[str]) -> str:
        word = match[0]
        if (
            len(word) < min_length
            or word.lower() in kept
            or not (word.islower() or (capitalized and (word.istitle() or word.isupper())))
        ):
            return word
        found = _nearest(word.lower(), max_edit_distance)
        return found if word.islower() else found.upper() if word.isupper() else found.capitalize()

    return _WORD.sub(corrected, text)


@lru_cache(maxsize=_REMEMBERED)
def _nearest(word: str, max_edit_distance: int) -> str:
    verbosity = require("symspellpy", extra="text", purpose="clean=[spelling]").Verbosity.TOP
    return str(_speller(max_edit_distance).lookup(word, verbosity, max_edit_distance, include_unknown=True)[0].term)


@cache
def _speller(max_edit_distance: int) -> Any:
    package = require("symspellpy", extra="text", purpose="clean=[spelling]")
    speller = package.SymSpell(max_dictionary_edit_distance=max_edit_distance)
    with as_file(files("symspellpy") / "frequency_dictionary_en_82_765.txt") as path:
        speller.load_dictionary(path, term_index=0, count_index=1)
    return speller
