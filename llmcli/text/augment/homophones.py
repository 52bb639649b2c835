"""Chinese characters replaced by others of the same sound: the slips of who types by pinyin."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import cache
from types import ModuleType
from typing import Literal, get_args

from llmcli.errors import InputError, require
from llmcli.text.augment.base import WordStep

Script = Literal["simplified", "traditional"]

# the first level of each standard holds the characters in common use: 3,755 and 5,401
_FREQUENT = {"simplified": ("gb2312", 0xB0A1, 0xD7F9), "traditional": ("big5", 0xA440, 0xC67E)}
_NO_SOUND = "-"


class Homophones(WordStep):
    """One character of a word becomes a frequent one of the same sound, with probability `rate` (needs pypinyin).

    tone: of the same tone too. script: where the frequent characters are from, level 1 of GB 2312 ("simplified") or of
    Big5 ("traditional"). A character is read as in its word, which a segmenter that finds whole words helps.
    """

    def __init__(self, *, rate: float, tone: bool, script: Script) -> None:
        super().__init__(rate=rate)
        if script not in get_args(Script):
            raise InputError(f"augment.homophones.script ({script}) must be one of {', '.join(get_args(Script))}")
        self.tone = tone
        self._alike = _by_sound(script, tone)

    def changed(self, word: str, rng: random.Random) -> str | None:
        others = [
            [other for other in self._alike.get(sound, "") if other != char]
            for char, sound in zip(word, _sounds(word, self.tone), strict=True)
        ]
        places = [place for place, found in enumerate(others) if found]
        if not places:
            return None
        place = rng.choice(places)
        return word[:place] + rng.choice(others[place]) + word[place + 1 :]


@cache
def _by_sound(script: Script, tone: bool) -> dict[str, str]:
    """The frequent characters of each sound.

    A character counts under its usual sound, and under every one without a tone, as particles have: 地 and 得 as de.
    """
    encoding, first, last = _FREQUENT[script]
    pairs = (code.to_bytes(2, "big").decode(encoding, "ignore") for code in range(first, last + 1))
    found: defaultdict[str, str] = defaultdict(str)
    for char in (char for char in pairs if char and not char.isascii()):
        usual, *others = _readings(char)
        light = [sound for sound in others if not sound[-1].isdigit()]
        for sound in dict.fromkeys(each if tone else each.rstrip("12345") for each in (usual, *light)):
            found[sound] += char
    return dict(found)


def _sounds(word: str, tone: bool) -> list[str]:
    """How each character sounds in this word, as hang2 or without tone hang; what is no Chinese character has none."""
    pypinyin = _pypinyin()
    style = pypinyin.Style.TONE3 if tone else pypinyin.Style.NORMAL
    sounds: list[str] = pypinyin.lazy_pinyin(word, style=style, errors=lambda rest: [_NO_SOUND] * len(rest))
    return sounds


def _readings(char: str) -> list[str]:
    """All sounds of a character, the usual one first."""
    pypinyin = _pypinyin()
    sounds: list[str] = pypinyin.pinyin(char, style=pypinyin.Style.TONE3, heteronym=True)[0]
    return sounds


def _pypinyin() -> ModuleType:
    return require("pypinyin", extra="zh", purpose="augment=[homophones]")
