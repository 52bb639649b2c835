"""Byte-pair encoding of a text part by part, cut only where no piece of the vocabulary can lie across.

SentencePiece merges the pairs of a whole text together, in n log n steps all over memory. No piece that it learns has
a space after another character or mixes letters with other signs; so the merges of two words never meet, and cutting
there gives the same ids. Words also return, and are then looked up instead.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

_SPACE = "\u2581"  # in pieces
# From the finest: spaces and then letters, or other signs; spaces and then anything. Where they cut depends on two
# neighbouring characters alone, so a piece that is one part lies across no cut, wherever in a text it stands. (ASCII
# comes first among the signs because that is faster.)
_PARTS = (re.compile(r" *(?:[^\W\d_]+|(?:[!-@\[-`{-~\t\n]+|[^\w ]+|\d+)+)| +"), re.compile(r" *[^ ]+| +"))
_REMEMBERED = 1 << 15  # parts, about 8 MB; then all are forgotten, and the frequent ones are soon back
_LONGEST = 32  # characters of a part that may return
_AT_ONCE = 1 << 16  # characters that are looked at together, so that a text of nothing but new parts stays in bounds


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
        rows: list[list[bytes]] = [[] for _ in texts]
        for group in self._groups(texts):
            new = self._learn(set(chain.from_iterable(parts for _, parts in group)))
            for row, parts in group:
                rows[row].append(b"".join(map(self._known.__getitem__, parts)))
            for part in new:
                if len(part) > _LONGEST:
                    del self._known[part]
        return [np.frombuffer(b"".join(row), "I").tolist() for row in rows]

    def _groups(self, texts: Sequence[str]) -> Iterator[list[tuple[int, list[str]]]]:
        """(which text, some of its parts) for all parts in order, in groups of up to _AT_ONCE characters."""
        group: list[tuple[int, list[str]]] = []
        size = 0
        for row, text in enumerate(texts):
            start = 0
            while start < len(text):
                parts, end = self._some(text, start)
                if group and size + end - start > _AT_ONCE:
                    yield group
                    group, size = [], 0
                group.append((row, parts))
                size, start = size + end - start, end
        if group:
            yield group

    def _some(self, text: str, start: int) -> tuple[list[str], int]:
        """The parts from start on that end within _AT_ONCE characters, or one that is longer; where they end."""
        end = start + _AT_ONCE
        while True:
            parts = self._pattern.findall(text, start, end)
            if end >= len(text):
                return parts, len(text)
            if len(parts) > 1:  # the last may go on
                return parts, end - len(parts.pop())
            end += end - start

    def _learn(self, parts: set[str]) -> set[str]:
        """Have all of them in the table; those that were not."""
        new = parts.difference(self._known)
        if len(self._known) + len(new) > _REMEMBERED:
            self._known.clear()
            new = parts
        if new:
            ids = self._encode(list(new))
            self._known.update(zip(new, (array("I", each).tobytes() for each in ids), strict=True))
        return new

    def __reduce__(self) -> tuple[type[PartEncoder], tuple[re.Pattern[str], Callable[..., list[list[int]]]]]:
        return PartEncoder, (self._pattern, self._encode)  # without what it remembers
