"""Between text and the fields of a tagger's batch: words of a text, sentences as ids, tags as spans of characters.

Shapes: T ids of a sentence, W words, L bytes of a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llmcli.data.records import Record, TaggedTokens
from llmcli.errors import InputError
from llmcli.layers.characters import byte_ids
from llmcli.losses import IGNORED
from llmcli.metrics.entities import Span
from llmcli.text.segment.base import UNSPACED
from llmcli.text.segment.chinese import ChineseWords
from llmcli.text.segment.english import EnglishWords
from llmcli.text.segment.whitespace import Whitespace
from llmcli.tokenizers.base import Tokenizer
from llmcli.tokenizers.char import CharTokenizer
from llmcli.tokenizers.word import WordTokenizer

Words = Literal["auto", "rule", "whitespace", "characters", "jieba"]
NONE = -1  # in `first`: a word without ids, because the sentence was cut, or no word at all
_CHINESE_WORD = re.compile(f"[{UNSPACED}]{{2,}}")


class Encoder:
    """A tagged sentence as `ids` (T,), and for each word `labels` (W,) and `first` (W,), the place of its first id.

    longest: bytes of a word in `characters` (W * longest,); None: that field is left out. marks: the row begins with
    <cls> and ends with <sep>. A word that the tokenizer gives no ids is <unk>. Words cut off the end have a label and
    `first` -1; they are no targets. Raises InputError for marks that the tokenizer lacks.
    """

    def __init__(self, *, names: Sequence[str], longest: int | None, marks: bool, tokenizer: Tokenizer) -> None:
        self.before, self.after = ([tokenizer.cls_id], [tokenizer.sep_id]) if marks else ([], [])
        if None in (*self.before, *self.after):
            raise InputError("task.marks is on, but this tokenizer has no <cls> and <sep>", "task.marks=false")
        self.extra = len(self.before) + len(self.after)
        self.tag_ids = {name: index for index, name in enumerate(names)}
        self.longest = longest
        self.nothing = tokenizer.unk_id or 0
        self.pad: Mapping[str, int] = {"ids": tokenizer.pad_id or 0, "labels": IGNORED, "first": NONE, "characters": 0}

    def __call__(self, record: Record, ids: list[NDArray[Any]]) -> dict[str, Any]:
        assert isinstance(record, TaggedTokens)
        labels = np.array([self._tag_id(tag) for tag in record.tags] or [IGNORED], np.int64)
        return {**self.words(record.tokens, ids), "labels": labels, "n_tokens": len(ids)}

    def words(self, tokens: Sequence[str], ids: Sequence[Sequence[int] | NDArray[Any]]) -> dict[str, Any]:
        """The fields without labels: ids of each token, of fewer than there are where the sentence was cut."""
        pieces = [each if len(each) else [self.nothing] for each in ids]
        first = np.full(max(1, len(tokens)), NONE, np.int64)
        first[: len(pieces)] = np.cumsum([len(self.before), *map(len, pieces)])[:-1]
        row = np.concatenate([self.before, *pieces, self.after]).astype(np.int64)
        row = row if len(row) else np.array([self.pad["ids"]], np.int64)
        fields = {"ids": row, "first": first}
        if self.longest is not None:
            fields["characters"] = byte_ids(tokens or [""], self.longest).ravel()
        return fields

    def _tag_id(self, name: str) -> int:
        if name not in self.tag_ids:
            known = ", ".join(islice(self.tag_ids, 10)) + (", ..." if len(self.tag_ids) > 10 else "")
            raise InputError(f"the run was not trained on the tag {name[:40]!r}", f"its tags: {known}")
        return self.tag_ids[name]


def word_spans(text: str, how: Words, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Where the words of a text that is to be tagged stand; they should be what tokens were in training.

    how: "rule" is that of `EnglishWords`, which cuts Chinese into characters; "characters": every one, white space too;
    "jieba": Chinese words. "auto": as the tokenizer cuts, and where it knows words that were given to it (`whitespace`,
    or sub-words) jieba if a tenth of them are Chinese words, else by rule.

    Raises InputError for another `how`.
    """
    if how not in get_args(Words):
        raise InputError(f"task.words ({how}) must be one of {', '.join(get_args(Words))}")
    if how == "characters" or (how == "auto" and isinstance(tokenizer, CharTokenizer)):
        return [(place, place + 1) for place in range(len(text))]
    if how == "whitespace":
        return Whitespace().spans(text)
    if how == "auto" and isinstance(tokenizer, WordTokenizer):
        if not isinstance(tokenizer.segmenter, Whitespace):
            return tokenizer.segmenter.spans(text)
        chinese = sum(_CHINESE_WORD.fullmatch(word) is not None for word in tokenizer.words)
        how = "jieba" if chinese > len(tokenizer.words) / 10 else "rule"
    if how == "jieba":
        return ChineseWords(hmm=True, user_words=()).spans(text)
    return EnglishWords(contractions="treebank").spans(text)


@dataclass(frozen=True)
class Part:
    """Words of text `number` that are tagged together: their places in it and their ids."""

    number: int
    text: str
    places: list[tuple[int, int]]
    ids: list[list[int]]

    @property
    def words(self) -> list[str]:
        return [self.text[start:end] for start, end in self.places]


def parts_of(
    number: int, text: str, places: list[tuple[int, int]], tokenizer: Tokenizer, limit: int | None
) -> list[Part]:
    """The words of a text in as few parts as have at most `limit` ids each (None: any number)."""
    parts: list[Part] = []
    room = 0
    for place, ids in zip(places, tokenizer.encode_batch([text[start:end] for start, end in places]), strict=True):
        ids = ids[:limit]
        needed = max(1, len(ids))
        if not parts or (limit is not None and needed > room):
            parts.append(Part(number, text, [], []))
            room = limit or 0
        parts[-1].places.append(place)
        parts[-1].ids.append(ids)
        room -= needed
    return parts


def marked(true: Sequence[Span], predicted: Sequence[Span], places: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Spans of words as spans of characters, each of kind "true", "predicted" or "both", from left to right."""
    found = []
    for span in sorted({*true, *predicted}):
        kind = "both" if span in true and span in predicted else "true" if span in true else "predicted"
        place = {"start": places[span.start][0], "end": places[span.end - 1][1]}
        found.append({**place, "label": span.type, "kind": kind})
    return found
