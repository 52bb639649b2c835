"""Which script a letter belongs to (Unicode Standard Annex 24), and words where some scripts have no spaces."""

from __future__ import annotations

import re
from functools import cache

from llmcli.errors import InputError
from llmcli.mistakes import did_you_mean, nearest

# Regex classes; what lies in them and is no letter is not counted.
_CLASSES = {
    "Arabic": "\u0620-\u06ff\u0750-\u077f\u0870-\u08c9\ufb50-\ufefc\U0001ee00-\U0001eebb",
    "Cyrillic": "\u0400-\u052f\u1c80-\u1c88\u1d2b\ua640-\ua69b",
    "Devanagari": "\u0904-\u097f\ua8f2-\ua8fe",
    "Greek": "\u0370-\u03e1\u03f0-\u03ff\u1d26-\u1d2a\u1d66-\u1d6a\u1f00-\u1ffc\uab65",
    "Han": "\u3005-\u3007\u3400-\u9fff\uf900-\ufad9\U00020000-\U000323af",
    "Hangul": "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb\uffa0-\uffdc",
    "Hebrew": "\u05d0-\u05f2\ufb1d-\ufb4f",
    "Hiragana": "\u3041-\u309f\U0001b001\U0001b11f\U0001b150-\U0001b152",
    "Katakana": "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b000\U0001b120-\U0001b122"
    "\U0001b164-\U0001b167",
    "Latin": "A-Za-z\xaa\xba\xc0-\u02af\u1d00-\u1d25\u1d62-\u1d65\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1eff\u2090-\u209c"
    "\u2184\u2c60-\u2c7f\ua722-\ua787\ua78b-\ua7ff\uab30-\uab64\uab66-\uab68\ufb00-\ufb06\uff21-\uff5a\U0001df00-\U0001df1e",
    "Thai": "\u0e01-\u0e46",
}
NAMES = tuple(_CLASSES)
_LETTERS = re.compile(r"[^\W\d_]+")
_UNSPACED = "".join(_CLASSES[name] for name in ("Han", "Hiragana", "Katakana"))
_WORD = re.compile(rf"[^\w\s]*+[{_UNSPACED}][^\w\s]*+|[^\s{_UNSPACED}]++")


def share(text: str, names: tuple[str, ...]) -> float:
    """The share of the text's letters that belong to these scripts, 0 for a text without letters.

    Raises InputError for a script that is not in NAMES.
    """
    letters = "".join(_LETTERS.findall(text))
    return sum(map(len, _runs(names).findall(letters))) / len(letters) if letters else 0.0


@cache
def _runs(names: tuple[str, ...]) -> re.Pattern[str]:
    for name in names:
        if name not in _CLASSES:
            close = did_you_mean(nearest(name, NAMES))
            raise InputError(f"there is no script {name}.{close}", f"the scripts are: {', '.join(NAMES)}")
    return re.compile(f"[{''.join(_CLASSES[name] for name in names)}]+")


def words(text: str) -> list[str]:
    """What stands between white space; in Han and kana, which have none, each character with its punctuation."""
    return text.split() if text.isascii() else _WORD.findall(text)
