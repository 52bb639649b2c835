"""A question and its text as rows of ids: `<cls> question <sep> text <sep>`, a long text in windows that overlap.

Shapes: E examples, T ids of a row, W ids of the text in a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcli.data.example_batches import Sizes
from llmcli.data.records import QuestionAnswer, Record
from llmcli.errors import InputError
from llmcli.tokenizers.base import Tokenizer

Array = NDArray[np.int64]


class Window:
    """What a row shows of its text: the characters (W, 2) of its ids, the first of which stands at place `first`."""

    __slots__ = ("first", "offsets", "record")

    def __init__(self, record: QuestionAnswer, offsets: Array, first: int) -> None:
        self.record, self.offsets, self.first = record, offsets, first

    def characters(self, start: int, end: int) -> tuple[int, int]:
        """From the places of a span's first and last id to its characters, without white space around them."""
        begin, stop = self.offsets[start - self.first, 0], self.offsets[end - self.first, 1]
        return _trimmed(self.record.context, int(begin), int(stop))

    def places(self, begin: int, stop: int) -> tuple[int, int]:
        """From characters to the places of the first and last id of them; 0, 0 where not all are in the window."""
        begin, stop = _trimmed(self.record.context, begin, stop)
        if not len(self.offsets) or begin < self.offsets[0, 0] or stop > self.offsets[-1, 1]:
            return 0, 0
        start = int(np.searchsorted(self.offsets[:, 1], begin, side="right"))
        end = int(np.searchsorted(self.offsets[:, 0], stop, side="left")) - 1
        return (start + self.first, end + self.first) if start <= end else (0, 0)


def _trimmed(text: str, begin: int, stop: int) -> tuple[int, int]:
    said = text[begin:stop]
    return begin + len(said) - len(said.lstrip()), stop - len(said) + len(said.rstrip())


class SpanEncoder:
    """Rows of ids (T,), `inside` (T,), `places` (2,) of the answer and the `Window`.

    inside: where an answer may begin and end, at the ids of the text that are more than white space.

    stride: how far each window moves on, in ids, at most as far as it reaches; None: one window, of the beginning. A
    question has half of a row, and more where the text leaves it. Of several answers the first is learned; its places
    are 0, no answer, in a window where it does not stand whole.
    """

    extra = 3

    def __init__(self, *, tokenizer: Tokenizer, stride: int | None) -> None:
        if tokenizer.cls_id is None or tokenizer.sep_id is None:
            raise InputError("task=span_qa needs a tokenizer with <cls> and <sep>, which this one lacks")
        self.tokenizer, self.stride = tokenizer, stride
        self.cls, self.sep = [tokenizer.cls_id], [tokenizer.sep_id]
        self.fate = "cut" if stride is None else "in windows"
        self.pad: Mapping[str, int] = {"ids": tokenizer.pad_id or 0, "inside": 0}

    def rows(self, record: Record, ids: list[NDArray[Any]], limit: int) -> list[dict[str, Any]]:
        assert isinstance(record, QuestionAnswer)
        question, text = ids
        offsets = self.tokenizer.offsets(record.context, text)
        said = np.array([bool(record.context[start:end].strip()) for start, end in offsets.tolist()], np.int64)
        asked, room, count = (int(each) for each in self._windows(len(question), len(text), limit))
        step = room if self.stride is None else min(self.stride, room)
        return [
            self._row(record, question[:asked], text, offsets, said, slice(at * step, at * step + room))
            for at in range(count)
        ]

    def _row(
        self, record: QuestionAnswer, question: Array, text: Array, offsets: Array, said: Array, part: slice
    ) -> dict[str, Any]:
        first = len(question) + 2
        window = Window(record, offsets[part], first)
        inside = np.concatenate((np.zeros(first, np.int64), said[part], [0]))
        places = (0, 0)
        if record.answers:
            places = window.places(record.starts[0], record.starts[0] + len(record.answers[0]))
        return {
            "ids": np.concatenate((self.cls, question, self.sep, text[part], self.sep)).astype(np.int64),
            "inside": inside,
            "places": np.array(places),
            "window": window,
        }

    def sizes(self, lengths: Array, first: Array, limit: int | None) -> Sizes:
        question, text = lengths[first], lengths[first + 1]
        if limit is None:
            whole = question + text + self.extra
            return Sizes(np.ones_like(whole), whole, whole)
        asked, room, count = self._windows(question, text, limit)
        step = room if self.stride is None else np.minimum(self.stride, room)
        longest = asked + self.extra + np.minimum(text, room)
        last = np.where(count > 1, text - (count - 1) * step, np.minimum(text, room))
        return Sizes(count, longest, (count - 1) * longest + asked + self.extra + last)

    def _windows(self, question: Any, text: Any, limit: int) -> tuple[Any, Any, Any]:
        """How many ids of questions and, in each window, of texts there is room for; how many windows that makes."""
        marked = limit - self.extra
        asked = np.minimum(question, np.maximum(marked // 2, marked - np.maximum(text, 1)))
        room = marked - asked  # at least 1
        if self.stride is None:
            return asked, room, np.ones_like(asked)
        beyond = np.maximum(text - room, 0)
        return asked, room, 1 - -beyond // np.minimum(self.stride, room)
