"""Sentences by rule, in English and Chinese.

A sentence ends

- at a blank line, and at a line end after a character of a script without spaces that is no comma or colon;
- after 。！？； and what closes with it (” ’ 」 』 ） 】 》), white space or not; … ! ? do the same beside Chinese
  characters, and so does a full stop between two of them;
- after . ! ? … and closing quotes and brackets, where white space follows and the next word begins with no lower-case
  letter.

It does not end before a comma ("Why?", he asked). A full stop is not taken for an end after a title (Dr., e.g., Fig.),
an initial (J. Smith) or the number of a list item (1. First). After a short form that may end a sentence (etc., Inc.,
U.S., p.m.) it is one only where a capitalised function word follows (The, In, He), which begins no name.
"""

from __future__ import annotations

import re

from llmcli.text.segment.base import UNSPACED, Segmenter
from llmcli.text.segment.english import SHORT_FORMS, TITLES
from llmcli.text.stop_words import ENGLISH

_STOPS = ".!?…。！？；｡"
_CLOSERS = "\"'”’»)]」』）】》〉〕"
_OPENERS = "\"'“‘«(["
_COMMAS = ",，、:：;"
# all stops and closers that follow each other; no stop before, so that a run is looked at once
_END = re.compile(
    rf"(?<![{_STOPS}])(?:[{_STOPS}]++[{re.escape(_CLOSERS)}]*+)++|\n[^\S\n]*\n|(?<=[{UNSPACED}])(?<![，、：])\n"
)
_ENDS_ALWAYS = re.compile("[。！？；｡]")
_IS_UNSPACED = re.compile(f"[{UNSPACED}]")
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[^\W_]+")
_LAST_WORD = re.compile(r"[^\s\"'“‘(\[]+$")
_LONGEST_SHORT_FORM = 16
_BEFORE_NUMBERS = frozenset(["no", "nos", "sec", "ch", "p", "art"])


class Sentences(Segmenter):
    """Sentences by the rule at the top of this file, without the white space around them."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        start = quotes = 0  # straight quotes of the line before `start`
        for match in _END.finditer(text):
            end = _end(text, start, match, quotes)
            if end is not None:
                _add(found, text, start, end)
                quotes = _quotes(text, start, end, quotes)
                start = end
        _add(found, text, start, len(text))
        return found


def _add(found: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    part = text[start:end]
    first = start + len(part) - len(part.lstrip())
    if first < end:
        found.append((first, start + len(part.rstrip())))


def _end(text: str, start: int, match: re.Match[str], quotes: int) -> int | None:
    """Where the sentence that began at `start` ends if it ends at this match, else None."""
    if match[0].startswith("\n"):
        return match.end()
    stops = match[0].strip(_CLOSERS)
    after = text[match.end() : match.end() + 1]
    if after and after in _COMMAS:
        return None
    beside = text[match.start() - 1 : match.start()] if match.start() else ""
    chinese = [_IS_UNSPACED.match(each) is not None for each in (beside, after)]
    if _ENDS_ALWAYS.search(stops) or all(chinese) or (any(chinese) and stops.strip(".")):
        opens = text[match.end() - 1] == '"' and _quotes(text, start, match.end(), quotes) % 2
        return match.end() - 1 if opens else match.end()  # a straight quote may open the next sentence
    space = _SPACE.match(text, match.end())
    if space is None:
        return None  # 3.14, example.org, or the end of the text
    following = text[space.end() : space.end() + _LONGEST_SHORT_FORM].lstrip(_OPENERS)
    if following[:1].islower() or (stops == "." and not _closes(text, start, match.start(), following)):
        return None
    return match.end()


def _closes(text: str, start: int, stop: int, following: str) -> bool:
    """Whether the full stop at `stop` ends a sentence, and not just a short form."""
    last = _LAST_WORD.search(text[max(start, stop - _LONGEST_SHORT_FORM) : stop])
    if last is None:
        return True
    word = last[0].lower()
    if word in TITLES or (word in _BEFORE_NUMBERS and following[:1].isdecimal()):
        return False
    if word.isdecimal() and text[start:stop].lstrip() == word:
        return False
    if word in SHORT_FORMS or "." in word or (len(word) == 1 and word.isalpha()):
        begins = _WORD.match(following)
        return begins is not None and begins[0].lower() in ENGLISH
    return True


def _quotes(text: str, start: int, end: int, before: int) -> int:
    """The straight quotes between the beginning of the line and `end`."""
    line = text.rfind("\n", start, end)
    return text.count('"', line, end) if line >= 0 else before + text.count('"', start, end)
