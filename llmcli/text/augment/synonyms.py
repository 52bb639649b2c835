"""Words replaced by synonyms, and synonyms put in, from a file of the user's (EDA, Wei and Zou 2019)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar

from llmcli.errors import InputError
from llmcli.text.augment.base import Edit, Step, Words, WordStep, checked, times


class Synonyms(WordStep):
    """A word becomes one of its synonyms in the file `path`, with probability `rate` (`read_synonyms`)."""

    def __init__(self, *, rate: float, path: str) -> None:
        super().__init__(rate=rate)
        self._synonyms = read_synonyms(Path(path))

    def changed(self, word: str, rng: random.Random) -> str | None:
        others = self._synonyms.get(word.lower())
        return in_case_of(word, rng.choice(others)) if others else None


class RandomInsertion(Step):
    """A synonym of some word is put in at any place, `rate` times as often as there are words."""

    moves: ClassVar[bool] = True

    def __init__(self, *, rate: float, path: str) -> None:
        self.rate = checked(rate)
        self._synonyms = read_synonyms(Path(path))

    def __call__(self, words: Words, rng: random.Random) -> list[Edit]:
        edits = [Edit(word, place) for place, word in enumerate(words)]
        known = [place for place, word in enumerate(words) if word is not None and word.lower() in self._synonyms]
        for _ in range(times(self.rate, len(words), rng) if known else 0):
            source = rng.choice(known)
            synonym = rng.choice(self._synonyms[(words[source] or "").lower()])
            place = rng.randrange(len(edits) + 1)
            edits[place:place] = [Edit(part, source, new=True) for part in synonym.split()]
        return edits


def read_synonyms(path: Path) -> dict[str, list[str]]:
    """Each word, in lower case, and what may stand for it.

    A line of the file (UTF-8) is a group of words that stand for each other, between tabs or commas; lines that begin
    with # are passed over. Raises InputError for a file that cannot be read or holds no such group.
    """
    try:
        lines = path.expanduser().read_text("utf-8-sig").splitlines()
    except OSError as err:
        raise InputError(f"synonyms: {path} cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise InputError(f"synonyms: {path} is not UTF-8: byte 0x{err.object[err.start]:02x} at {err.start:,}") from err
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        group = [word.strip() for word in line.replace("，", ",").split("\t" if "\t" in line else ",")]
        group = [word for word in dict.fromkeys(group) if word]
        for word in group:
            others = found.setdefault(word.lower(), [])
            others += [other for other in group if other.lower() != word.lower() and other not in others]
    found = {word: others for word, others in found.items() if others}
    if not found:
        raise InputError(f"{path} holds no synonyms", "a line is a group of words between tabs or commas: quick, fast")
    return found


def in_case_of(word: str, other: str) -> str:
    """`other` as `word` is written: QUICK, Quick or quick."""
    if len(word) > 1 and word.isupper():
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other
