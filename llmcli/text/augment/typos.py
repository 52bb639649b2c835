"""Slips of the keyboard (Belinkov and Bisk 2018)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, get_args

from llmcli.errors import InputError
from llmcli.text.augment.base import WordStep

Slip = Literal["key", "swap"]

_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))  # keys of a row, and how far it is shifted
_SHORTEST = 4  # letters: fewer are hard to read when two have changed places


def _neighbours() -> dict[str, str]:
    """The keys around each letter of a QWERTY keyboard."""
    at = {key: (i + shift, row) for row, (keys, shift) in enumerate(_ROWS) for i, key in enumerate(keys)}
    return {
        key: "".join(other for other, (u, v) in at.items() if other != key and abs(u - x) <= 1 and abs(v - y) <= 1)
        for key, (x, y) in at.items()
    }


_NEAR = _neighbours()


class Typos(WordStep):
    """A Latin word gets one slip with probability `rate`.

    kinds: "key" hits a neighbour of the right key, "swap" exchanges two letters inside a word of four or more.
    """

    def __init__(self, *, rate: float, kinds: Sequence[Slip]) -> None:
        super().__init__(rate=rate)
        if not kinds or not set(kinds) <= set(get_args(Slip)):
            raise InputError(f"augment.typos.kinds ({', '.join(kinds)}) must be some of {', '.join(get_args(Slip))}")
        self.kinds = list(kinds)

    def changed(self, word: str, rng: random.Random) -> str | None:
        kind = rng.choice(self.kinds)
        if kind == "swap":
            places = [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]]
            if len(word) < _SHORTEST or not places or not word.isalpha() or not word.isascii():
                return None
            i = rng.choice(places)
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        places = [i for i, letter in enumerate(word) if letter.lower() in _NEAR]
        if not places:
            return None
        i = rng.choice(places)
        hit = rng.choice(_NEAR[word[i].lower()])
        return word[:i] + (hit.upper() if word[i].isupper() else hit) + word[i + 1 :]
