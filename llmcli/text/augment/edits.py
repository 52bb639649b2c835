"""Words deleted, exchanged and hidden: steps that need to know nothing of the language."""

from __future__ import annotations

import random
from typing import ClassVar

from llmcli.text.augment.base import Edit, Step, Words, checked, times


class RandomDeletion(Step):
    """Each word goes with probability `rate`, but one always stays (EDA, Wei and Zou 2019)."""

    def __init__(self, *, rate: float) -> None:
        self.rate = checked(rate)

    def __call__(self, words: Words, rng: random.Random) -> list[Edit]:
        kept = [Edit(word, place) for place, word in enumerate(words) if rng.random() >= self.rate]
        if words and not kept:
            place = rng.randrange(len(words))
            return [Edit(words[place], place)]
        return kept


class RandomSwap(Step):
    """Two words change places, `rate` times as often as there are words (EDA, Wei and Zou 2019).

    distance: at most so many places apart; None: any two.
    """

    moves: ClassVar[bool] = True

    def __init__(self, *, rate: float, distance: int | None) -> None:
        self.rate, self.distance = checked(rate), distance

    def __call__(self, words: Words, rng: random.Random) -> list[Edit]:
        edits = [Edit(word, place) for place, word in enumerate(words)]
        if len(edits) < 2:
            return edits
        reach = len(edits) - 1 if self.distance is None else min(self.distance, len(edits) - 1)
        for _ in range(times(self.rate, len(edits), rng)):
            one = rng.randrange(len(edits))
            others = [*range(max(0, one - reach), one), *range(one + 1, min(len(edits), one + reach + 1))]
            other = rng.choice(others)
            edits[one], edits[other] = edits[other], edits[one]
        return edits


class TokenMask(Step):
    """Each word is hidden behind one <mask> id with probability `rate` (word dropout, Bowman et al. 2016)."""

    masks: ClassVar[bool] = True

    def __init__(self, *, rate: float) -> None:
        self.rate = checked(rate)

    def __call__(self, words: Words, rng: random.Random) -> list[Edit]:
        return [Edit(None if rng.random() < self.rate else word, place) for place, word in enumerate(words)]
