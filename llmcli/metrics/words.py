"""What word vectors know: nearest neighbours, similarity lists (Spearman's correlation) and analogies (3CosAdd).

Shapes: W words, D vector width, Q questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[str, str, float]
Question = tuple[str, str, str, str]

QUESTIONS_AT_ONCE = 256  # their scores over all words are in memory together


def ranks(values: Tensor) -> Tensor:
    """Places (n,) in ascending order from 1, ties sharing the mean of theirs."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    places: Tensor = counts.cumsum(0).double() - (counts - 1) / 2
    return places[inverse]


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where it is not defined: fewer than two values, or all of a side the same."""
    sides = [ranks(torch.tensor(side, dtype=torch.float64)) for side in (first, second)]
    centred = [side - side.mean() for side in sides]
    scale = float(centred[0].norm() * centred[1].norm())
    return float(centred[0] @ centred[1]) / scale if scale > 0 else None


class WordSpace:
    """Words and their vectors (W, D), compared by the cosine. The words stand in order of falling frequency.

    A word that is not there as it is written is looked for in other cases, the most frequent first; then `outside`
    may have a vector for it.
    """

    def __init__(
        self, words: Sequence[str], vectors: Tensor, *, outside: Callable[[str], Tensor | None] | None = None
    ) -> None:
        self.words = list(words)
        self._unit = F.normalize(vectors.detach().float(), dim=-1)
        self._rows = {word: row for row, word in enumerate(self.words)}
        self._folded: dict[str, int] = {}
        for row, word in enumerate(self.words):
            self._folded.setdefault(word.casefold(), row)
        self._outside = outside

    def row(self, word: str) -> int | None:
        found = self._rows.get(word)
        return self._folded.get(word.casefold()) if found is None else found

    def vector(self, word: str) -> Tensor | None:
        """The word's vector of length 1, (D,)."""
        row = self.row(word)
        if row is not None:
            return self._unit[row]
        found = None if self._outside is None else self._outside(word)
        return None if found is None else F.normalize(found.detach().float(), dim=-1)

    def neighbours(self, vector: Tensor, top: int, *, without: Sequence[str] = ()) -> list[tuple[str, float]]:
        """The `top` words nearest to a vector (D,) with their cosines, but those of `without`."""
        scores = self._unit @ F.normalize(vector.float(), dim=-1)  # (W,)
        rows = [row for word in without if (row := self.row(word)) is not None]
        scores[rows] = -torch.inf
        values, best = scores.topk(min(top, len(self.words) - len(set(rows))))
        return [(self.words[row], float(value)) for value, row in zip(values, best.tolist(), strict=True)]

    def similarity(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Spearman's correlation of cosines and people's scores, over the pairs of which both words have a vector."""
        cosines, scores = [], []
        for first, second, score in pairs:
            one, other = self.vector(first), self.vector(second)
            if one is not None and other is not None:
                cosines.append(float(one @ other))
                scores.append(score)
        return {
            "spearman": spearman(cosines, scores),
            "pairs": len(pairs),
            "covered": len(scores),
            "coverage": len(scores) / max(1, len(pairs)),
        }

    def analogies(self, sections: Mapping[str, Sequence[Question]]) -> dict[str, Any]:
        """Questions "a is to b as c is to d": right where d is the word nearest to b - a + c but a, b and c.

        Over the questions of which all four words are in the vocabulary (3CosAdd, Mikolov et al. 2013c); in all and
        for each section.
        """
        found = {name: (len(questions), *self._answered(questions)) for name, questions in sections.items()}
        whole = [sum(part) for part in zip(*found.values(), strict=True)] or [0, 0, 0]
        return {**_share_right(*whole), "sections": {name: _share_right(*each) for name, each in found.items()}}

    def _answered(self, questions: Sequence[Question]) -> tuple[int, int]:
        """How many of the questions have all their words, and how many of those are right."""
        rows = [[self.row(word) for word in question] for question in questions]
        known = torch.tensor([each for each in rows if None not in each], dtype=torch.int64).view(-1, 4)
        right = 0
        for part in torch.split(known, QUESTIONS_AT_ONCE):
            a, b, c = (self._unit[part[:, place]] for place in range(3))  # (Q, D)
            scores = (b - a + c) @ self._unit.T  # (Q, W)
            scores.scatter_(1, part[:, :3], -torch.inf)
            right += int((scores.argmax(1) == part[:, 3]).sum())
        return len(known), right


def _share_right(asked: int, covered: int, right: int) -> dict[str, Any]:
    accuracy = right / covered if covered else None
    return {"accuracy": accuracy, "questions": asked, "covered": covered, "coverage": covered / max(1, asked)}
