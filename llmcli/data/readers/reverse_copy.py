"""Random letters and the same in reverse: the first thing that a translator should be able to learn."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from typing import Any

from llmcli.data.records import TextPair
from llmcli.data.source import Source
from llmcli.errors import InputError
from llmcli.seeds import mix

_VERSION = 1  # how records are made; a change makes prepared data out of date


class ReverseCopy(Source[TextPair]):
    """Pairs such as `dacb` and `bcad`, made as they are read.

    train, val, test: how many; those of one split do not depend on how many the others have. letters: of the alphabet,
    from its beginning. shortest, longest: letters of a text, every length as likely.

    Raises InputError for sizes that cannot be.
    """

    record = TextPair

    def __init__(
        self, *, train: int, val: int, test: int, letters: int, shortest: int, longest: int, seed: int
    ) -> None:
        self.counts = {"train": train, "val": val, "test": test}
        for name, count in self.counts.items():
            if count < 0:
                raise InputError(f"data.{name} ({count}) must be at least 0")
        if not 1 <= letters <= len(string.ascii_lowercase):
            raise InputError(f"data.letters ({letters}) must be between 1 and {len(string.ascii_lowercase)}")
        if not 1 <= shortest <= longest:
            raise InputError(f"data.shortest ({shortest}) must be at least 1 and at most data.longest ({longest})")
        self.letters, self.shortest, self.longest, self.seed = letters, shortest, longest, seed

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name, count in self.counts.items() if count)

    def records(self, split: str) -> Iterator[TextPair]:
        draw = random.Random(mix("reverse copy", self.seed, split))
        alphabet = string.ascii_lowercase[: self.letters]
        for _ in range(self.counts[split]):
            text = "".join(draw.choices(alphabet, k=draw.randint(self.shortest, self.longest)))
            yield TextPair(text, text[::-1])

    def fingerprint(self) -> dict[str, Any]:
        return {
            "reader": f"{type(self).__module__}.{type(self).__qualname__}",
            "version": _VERSION,
            "counts": self.counts,
            "letters": self.letters,
            "lengths": [self.shortest, self.longest],
            "seed": self.seed,
        }

    def describe(self) -> str:
        return f"{self.shortest} to {self.longest} of {self.letters} letters, seed {self.seed}"
