"""Noise of Chinese text: traditional among simplified characters, full-width among half-width ones, and the reverse."""

from __future__ import annotations

import random

from llmcli.errors import require
from llmcli.text.augment.base import WordStep
from llmcli.text.chinese import to_simplified, to_traditional
from llmcli.text.width import full_width, half_width


class MixedScript(WordStep):
    """A word in simplified characters becomes traditional and the reverse, with probability `rate` (needs opencc)."""

    def __init__(self, *, rate: float) -> None:
        super().__init__(rate=rate)
        require("opencc", extra="zh", purpose="augment=[mixed_script]")

    def changed(self, word: str, rng: random.Random) -> str | None:
        simplified = to_simplified(word, profile="t2s")
        return simplified if simplified != word else to_traditional(word, profile="s2t")


class MixedWidth(WordStep):
    """A word in half-width letters, digits and marks becomes full-width and the reverse, with probability `rate`."""

    def changed(self, word: str, rng: random.Random) -> str | None:
        half = half_width(word, punctuation=True, space=False)
        return half if half != word else full_width(word, punctuation=True, space=False)
