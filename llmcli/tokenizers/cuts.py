"""Byte-pair encoding of a text part by part, cut only where no piece of the vocabulary can lie across.

SentencePiece merges the pairs of a whole text together, in n log n steps all over memory. No piece that it learns has
a space after another character or mixes letters with other signs; so the merges of two words never meet, and cutting
there gives the same ids. Words also return, and are then looked up instead.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np

_SPACE = "\u2581"  # in pieces
# From the finest: spaces and then letters, or other signs; spaces and then anything. Where they cut depends on two
# neighbouring characters alone, so a piece that is one part lies across no cut, wherever in a text it stands. (ASCII
# comes first among the signs because that is faster.)
_PARTS = (re.compile(r" *(?:[^\W\d_]+|(?:[!-@\[-`{-~\t\n]+|[^\w ]+|\d+)+)| +"), re.compile(r" *[^ ]+| +"))
_REMEMBERED = 1 << 16  # parts, about 15 MB; then all are forgotten, and the frequent ones are soon back
_LONGEST = 32  # characters of a part that may return


def parts_of(pieces: Iterable[str]) -> re.Pattern[str] | None:
    """The finest pattern that cuts through none of the pieces; None where both do."""
    texts = [piece.replace(_SPACE, " ") for piece in pieces]
    whole = (pattern for pattern in _PARTS if all(len(pattern.findall(text)) == 1 for text in texts))
    return next(whole, None)


class PartEncoder:
    """Texts -> ids, by the ids of their parts. encode: ids of each of many parts, which are not remembered."""

    def __init__(self, pattern: re.Pattern[str], encode: Callable[[Sequence[str]], list[list[int]]]) -> None:
        self._pattern, self._encode = pattern, encode
        self._known: dict[str, bytes] = {}  # ids as C numbers: a fifth of the memory of lists

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        known, cut = self._known, [self._pattern.findall(text) for text in texts]
        new = list(set(chain.from_iterable(cut)).difference(known))
        if new:
            known.update(zip(new, (array("I", ids).tobytes() for ids in self._encode(new)), strict=True))
        ids: list[list[int]] = [np.frombuffer(b"".join(map(known.__getitem__, parts)), "I").tolist() for parts in cut]
        for part in new:
            if len(part) > _LONGEST:
                del known[part]
        return ids

    def __reduce__(self) -> tuple[type[PartEncoder], tuple[re.Pattern[str], Callable[..., list[list[int]]]]]:
        return PartEncoder, (self._pattern, self._encode)  # without what it remembers
