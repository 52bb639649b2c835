"""One id per word of the training text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Literal, Self, get_args

from llmcli.errors import InputError
from llmcli.tokenizers.base import RESERVED, Tokenizer

Split = Literal["whitespace", "words"]

_FILE = "words.json"
_UNK = RESERVED.index("<unk>")
# Kana, Han with its extensions and compatibility forms, and full-width punctuation: written without spaces.
_CJK = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+|[^\w\s]|_")
_UNSPACED = re.compile(f"[{_CJK}]")
_NO_SPACE_BEFORE = frozenset(".,;:!?%)]}…’”»'-/_")
_NO_SPACE_AFTER = frozenset("([{“‘«$#@'-/_")


def train(
    texts: Iterable[str],
    *,
    split: Split,
    lower_case: bool,
    vocab_size: int | None,
    min_frequency: int,
    unk_text: str | None,
) -> WordTokenizer:
    """The most frequent words, ties in alphabetical order.

    split: "whitespace" cuts at white space alone, "words" gives runs of letters and digits, single
    punctuation marks and single CJK characters. vocab_size: at most so many ids, the 16 reserved ones among
    them; None: all words. min_frequency: rarer words become unk_id. unk_text: the word that stands for an
    unknown one in a corpus that was prepared elsewhere, such as "<unk>" in WikiText-2; None: no such word.

    Raises:
        InputError: an unknown split, vocab_size without room for a word, or no word frequent enough.
    """
    if split not in get_args(Split):
        raise InputError(f"split ({split!r}) must be one of {', '.join(get_args(Split))}")
    if vocab_size is not None and vocab_size <= len(RESERVED):
        raise InputError(f"vocab_size ({vocab_size}) must be above the {len(RESERVED)} reserved ids")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_text(text, split, lower_case))
    if unk_text is not None:
        del counts[unk_text]
    words = [word for word, count in counts.items() if count >= min_frequency]
    if not words:
        raise InputError(
            f"no word occurs {min_frequency} times or more in the training text",
            hint="lower tokenizer.min_frequency, or check that the text is not empty",
        )
    words.sort(key=lambda word: (-counts[word], word))
    if vocab_size is not None:
        words = words[: vocab_size - len(RESERVED)]
    return WordTokenizer(words, split=split, lower_case=lower_case, unk_text=unk_text)


def split_text(text: str, split: Split, lower_case: bool) -> list[str]:
    if lower_case:
        text = text.lower()
    return text.split() if split == "whitespace" else _WORD.findall(text)


class WordTokenizer(Tokenizer):
    """Word k of `words` is id 16 + k, every other word is unk_id.

    `decode` puts one space between words. With split "words" it leaves the space out beside a CJK character,
    before closing and after opening punctuation, and on both sides of ' - / and _. Where unk_text is set,
    unk_id reads as it.
    """

    exact: ClassVar[bool] = False

    def __init__(self, words: Sequence[str], *, split: Split, lower_case: bool, unk_text: str | None) -> None:
        if len(set(words)) != len(words):
            raise ValueError("words must be distinct")
        self.words = list(words)
        self.split: Split = split
        self.lower_case = lower_case
        self.unk_text = unk_text
        self.vocab_size = len(RESERVED) + len(words)
        self._ids = {word: index for index, word in enumerate(words, start=len(RESERVED))}
        if unk_text is not None:
            self._ids[unk_text] = _UNK
        self._text = [""] * len(RESERVED) + self.words
        self._text[_UNK] = unk_text or ""

    def encode(self, text: str) -> list[int]:
        get = self._ids.get
        return [get(word, _UNK) for word in split_text(text, self.split, self.lower_case)]

    def decode(self, ids: Sequence[int]) -> str:
        words = [word for word in map(self._text.__getitem__, ids) if word]
        if self.split == "whitespace" or not words:
            return " ".join(words)
        rest = (word if _adjoin(before, word) else f" {word}" for before, word in pairwise(words))
        return words[0] + "".join(rest)

    def token(self, index: int) -> str:
        return RESERVED[index] if index < len(RESERVED) else self._text[index]

    def unknown(self, text: str) -> list[str]:
        words = split_text(text, self.split, self.lower_case)
        return [word for word in dict.fromkeys(words) if word not in self._ids]

    def files(self) -> dict[str, bytes]:
        state = {
            "split": self.split,
            "lower_case": self.lower_case,
            "unk_text": self.unk_text,
            "words": self.words,
        }
        return {_FILE: json.dumps(state, indent=0).encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        state = json.loads(files[_FILE])
        if not isinstance(state, dict) or set(state) != {"split", "lower_case", "unk_text", "words"}:
            raise ValueError(f"{_FILE} must hold split, lower_case, unk_text and words")
        if state["split"] not in get_args(Split) or not all(isinstance(word, str) for word in state["words"]):
            raise ValueError(f"{_FILE} has an unknown split or words that are not text")
        return cls(
            state["words"],
            split=state["split"],
            lower_case=state["lower_case"],
            unk_text=state["unk_text"],
        )


def _adjoin(before: str, word: str) -> bool:
    """Whether `word` follows `before` without a space."""
    return (
        word in _NO_SPACE_BEFORE
        or before in _NO_SPACE_AFTER
        or _UNSPACED.match(word) is not None
        or _UNSPACED.match(before) is not None
    )
