"""What an augmentation step is, and how several follow each other.

A step changes the words of one example at random. It says of each word that it gives which word it comes from, so that
the caller can keep what belongs to words: the spaces between them, their tags.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from llmcli.errors import InputError

Words = Sequence[str | None]  # None: a word that is hidden


class Edit(NamedTuple):
    """A word of the result. source: the place of the word that it is or stands for; new: it stands beside that one."""

    word: str | None
    source: int
    new: bool = False


class Step(ABC):
    """Words and a generator -> what becomes of them.

    masks: some may come out hidden. moves: it moves words as they are or puts others in, and so could tear apart what
    belongs together.
    """

    masks: ClassVar[bool] = False
    moves: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, words: Words, rng: random.Random) -> list[Edit]: ...


class WordStep(Step):
    """Changes words one by one, each with probability `rate`; what cannot be changed stays."""

    def __init__(self, *, rate: float) -> None:
        self.rate = checked(rate)

    def __call__(self, words: Words, rng: random.Random) -> list[Edit]:
        found: list[Edit] = []
        for place, word in enumerate(words):
            changed = None if word is None or rng.random() >= self.rate else self.changed(word, rng)
            parts: list[str | None] = [word] if changed is None else [*changed.split()]
            found += [Edit(part, place) for part in parts]
        return found

    @abstractmethod
    def changed(self, word: str, rng: random.Random) -> str | None:
        """Another word, or words between spaces; None where there is none."""


def edited(
    words: Words, steps: Iterable[Step], rng: random.Random, together: Sequence[int | None] | None = None
) -> list[Edit]:
    """What the steps, one after the other, make of the words; sources are places in `words`.

    together: words side by side with the same number are moved as one, and nothing is put in between; None: any may be.
    """
    edits = [Edit(word, place) for place, word in enumerate(words)]
    for step in steps:
        if together is not None and step.moves:
            edits = _moved(edits, step, rng, together)
            continue
        found = step([edit.word for edit in edits], rng)
        edits = [Edit(each.word, edits[each.source].source, each.new or edits[each.source].new) for each in found]
    return edits


def _moved(edits: list[Edit], step: Step, rng: random.Random, together: Sequence[int | None]) -> list[Edit]:
    units: list[list[Edit]] = []
    last = None
    for edit in edits:
        number = None if edit.new else together[edit.source]
        if number is not None and number == last:
            units[-1].append(edit)
        else:
            units.append([edit])
        last = number
    words = [None if any(each.word is None for each in unit) else _joined(unit) for unit in units]
    moved: list[Edit] = []
    for each in step(words, rng):
        unit = units[each.source]
        moved += [Edit(each.word, unit[0].source, new=True)] if each.new else unit
    return moved


def _joined(unit: list[Edit]) -> str:
    return " ".join(edit.word or "" for edit in unit)


def checked(rate: float) -> float:
    """The rate. Raises InputError unless it is a probability above 0."""
    if not 0 < rate <= 1:
        raise InputError(f"augment: a rate ({rate}) must be above 0 and at most 1")
    return rate


def times(rate: float, count: int, rng: random.Random) -> int:
    """rate * count, rounded up or down so that it is that on average."""
    return int(rate * count + rng.random())
