"""One id per word of the training text, as a segmenter of `llmcli.text.segment` cuts it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from llmcli.errors import CheckpointError, InputError
from llmcli.text.segment.base import Segmenter, from_state
from llmcli.text.segment.whitespace import Whitespace
from llmcli.tokenizers.base import RESERVED, Tokenizer

_FILE = "words.json"
_UNK = RESERVED.index("<unk>")
_KEYS = {"segmenter", "lower_case", "unk_text", "words"}
_OLD_KEYS = {"split", "lower_case", "unk_text", "words"}  # before segmenters


def train(
    texts: Iterable[str],
    *,
    segmenter: Segmenter,
    lower_case: bool,
    vocab_size: int | None,
    min_frequency: int,
    unk_text: str | None,
) -> WordTokenizer:
    """The most frequent words, ties in alphabetical order.

    vocab_size: at most so many ids, the 16 reserved ones among them; None: all words. min_frequency: rarer words become
    unk_id. unk_text: the word that stands for an unknown one in a corpus that was prepared elsewhere, such as "<unk>"
    in WikiText-2; None: no such word.

    Raises InputError for a vocab_size without room for a word, or if no word is frequent enough.
    """
    if vocab_size is not None and vocab_size <= len(RESERVED):
        raise InputError(f"vocab_size ({vocab_size}) must be above the {len(RESERVED)} reserved ids")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(segmenter(text.lower() if lower_case else text))
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
    return WordTokenizer(words, segmenter=segmenter, lower_case=lower_case, unk_text=unk_text)


class WordTokenizer(Tokenizer):
    """Word k of `words` is id 16 + k, every other word is unk_id.

    `decode` puts the words together as the segmenter does: with one space between two, and none where the script or the
    punctuation has none. Where unk_text is set, unk_id reads as it.
    """

    exact: ClassVar[bool] = False
    whole_words: ClassVar[bool] = True

    def __init__(self, words: Sequence[str], *, segmenter: Segmenter, lower_case: bool, unk_text: str | None) -> None:
        if len(set(words)) != len(words):
            raise ValueError("words must be distinct")
        self.words = list(words)
        self.segmenter = segmenter
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
        return [get(word, _UNK) for word in self._cut(text)]

    def offsets(self, text: str, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        lowered = text.lower() if self.lower_case else text
        spans = np.array(self.segmenter.spans(lowered), np.int64).reshape(-1, 2)
        if len(lowered) == len(text):
            return spans
        # some capitals are two characters in lower case: where each of the text ends there, and so whose each one is
        ends = list(accumulate(len(char.lower()) for char in text))
        spans[:, 0] = np.searchsorted(ends, spans[:, 0], side="right")
        spans[:, 1] = np.searchsorted(ends, spans[:, 1] - 1, side="right") + 1
        return spans

    def decode(self, ids: Sequence[int]) -> str:
        return self.segmenter.join([word for word in map(self._text.__getitem__, ids) if word])

    def token(self, index: int) -> str:
        return RESERVED[index] if index < len(RESERVED) else self._text[index]

    def unknown(self, text: str) -> list[str]:
        return [word for word in dict.fromkeys(self._cut(text)) if word not in self._ids]

    def files(self) -> dict[str, bytes]:
        state = {
            "segmenter": self.segmenter.state(),
            "lower_case": self.lower_case,
            "unk_text": self.unk_text,
            "words": self.words,
        }
        return {_FILE: json.dumps(state, indent=0).encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        state = json.loads(files[_FILE])
        if not isinstance(state, dict) or set(state) not in (_KEYS, _OLD_KEYS):
            raise ValueError(f"{_FILE} must hold {', '.join(sorted(_KEYS))}")
        if not all(isinstance(word, str) for word in state["words"]):
            raise ValueError(f"{_FILE} has words that are not text")
        return cls(
            state["words"],
            segmenter=_segmenter(state),
            lower_case=state["lower_case"],
            unk_text=state["unk_text"],
        )

    def _cut(self, text: str) -> list[str]:
        return self.segmenter(text.lower() if self.lower_case else text)


def _segmenter(state: Mapping[str, Any]) -> Segmenter:
    if "segmenter" in state:
        return from_state(state["segmenter"])
    if state["split"] == "whitespace":
        return Whitespace()
    raise CheckpointError(
        f"the tokenizer's words were cut by a rule ({state['split']}) that this version does not have",
        "train it again, or use the version that made it",
    )
