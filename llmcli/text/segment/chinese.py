"""Chinese words by jieba's dictionary and hidden Markov model (rjieba), with words of the user's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from llmcli.errors import InputError, require
from llmcli.text.segment.base import UNSPACED, Segmenter

_ENTRY = re.compile(r"(?P<word>\S+)(?: +(?P<frequency>[0-9]{1,12}))?(?: +(?P<tag>[A-Za-z]+))?")
_SURROGATE = re.compile("[\ud800-\udfff]")


class ChineseWords(Segmenter):
    """The words of `jieba.cut`, white space left out; Latin words, numbers and marks come as jieba cuts them.

    hmm: words that are not in the dictionary are guessed from their characters. user_words: entries "word", "word
    frequency", "word tag" or "word frequency tag". A word without a frequency gets the one that keeps it together; with
    one it competes with the words around it, as in jieba.

    Raises InputError without the package rjieba, and for an entry that is malformed or can never be one word.
    """

    # quotation marks, dashes and dots that Chinese shares with other scripts, which put spaces beside them
    unspaced: ClassVar[re.Pattern[str]] = re.compile(f"[{UNSPACED}“”‘’—…·]")

    def __init__(self, *, hmm: bool, user_words: Sequence[str]) -> None:
        rjieba = require("rjieba", extra="zh", purpose="Chinese word segmentation")
        self.hmm = hmm
        self.user_words = list(user_words)
        self._jieba = rjieba.Jieba() if user_words else rjieba
        entries = [_entry(line) for line in user_words]
        for word, frequency, tag in sorted(entries, key=lambda entry: (entry[1] is None, len(entry[0]))):
            self._jieba.add_word(word, frequency, tag)  # the frequency that keeps a word together counts its parts'
        for word, frequency, _ in entries:
            if frequency is None and (cut := self._jieba.cut(word, hmm)) != [word]:
                raise InputError(
                    f"the user word {word} cannot be one word: jieba always cuts it into {' '.join(cut)}",
                    "Chinese characters, letters, digits and + # & . _ % - can stand together in a word",
                )

    def __call__(self, text: str) -> list[str]:
        return [word for word in self._cut(text) if not word.isspace()]

    def spans(self, text: str) -> list[tuple[int, int]]:
        found, start = [], 0
        for word in self._cut(text):
            end = start + len(word)
            if not word.isspace():
                found.append((start, end))
            start = end
        return found

    def tagged(self, text: str) -> list[tuple[str, str]]:
        """Words with jieba's part-of-speech tags: n noun, v verb, a adjective, r pronoun, m number, x mark, eng, ...

        The words are those of a call, but for a lone surrogate, which reads as U+FFFD.
        """
        pairs = self._jieba.tag(_SURROGATE.sub("\ufffd", text), self.hmm)
        return [(word, tag) for word, tag in pairs if not word.isspace()]

    def settings(self) -> dict[str, Any]:
        return {"hmm": self.hmm, "user_words": self.user_words}

    def _cut(self, text: str) -> list[str]:
        try:
            words: list[str] = self._jieba.cut(text, self.hmm)
            return words
        except UnicodeEncodeError:  # a lone surrogate has no UTF-8; it is a part of its own, as U+FFFD is
            found, start = [], 0
            for word in self._jieba.cut(_SURROGATE.sub("\ufffd", text), self.hmm):
                found.append(text[start : start + len(word)])
                start += len(word)
            return found


def chinese_words(*, hmm: bool, user_words: Sequence[str], user_dictionary: str | None) -> ChineseWords:
    """`ChineseWords` with the entries of a file besides `user_words`: one a line, as in jieba's user dictionaries.

    Raises InputError for a file that cannot be read as UTF-8, and as ChineseWords does.
    """
    words = list(user_words)
    if user_dictionary is not None:
        try:
            lines = Path(user_dictionary).expanduser().read_text("utf-8-sig").splitlines()
        except OSError as err:
            raise InputError(f"user_dictionary: {user_dictionary} cannot be read: {err.strerror}") from err
        except UnicodeDecodeError as err:
            raise InputError(
                f"user_dictionary: {user_dictionary} is not UTF-8: byte 0x{err.object[err.start]:02x} at offset "
                f"{err.start:,}",
                "save it as UTF-8, or iconv -f gb18030 -t utf-8",
            ) from err
        words += [line.strip() for line in lines if line.strip()]
    return ChineseWords(hmm=hmm, user_words=words)


def _entry(line: str) -> tuple[str, int | None, str | None]:
    match = _ENTRY.fullmatch(line)
    if match is None or _SURROGATE.search(line):
        raise InputError(
            f"the user word {line!r} is no entry of a dictionary", "word, word 5, word n or word 5 n (frequency, tag)"
        )
    frequency = match["frequency"]
    return match["word"], None if frequency is None else int(frequency), match["tag"]
