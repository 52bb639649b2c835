"""Running text as single examples, a sentence, a line or a document each: for tasks that learn from single texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

from llmcli.data.records import LabeledText
from llmcli.data.source import Source, Wrapped
from llmcli.errors import InputError
from llmcli.text.segment.sentences import Sentences

Unit = Literal["sentence", "line", "document"]


class Singles(Wrapped[LabeledText]):
    """The sentences, lines or documents of a source of running text, in the same splits, each a text without a label.

    White space around them goes, and what holds nothing else. A unit is held in memory as a whole.

    Raises InputError for an unknown unit.
    """

    record = LabeledText

    def __init__(self, source: Source[Any], unit: Unit) -> None:
        if unit not in get_args(Unit):
            raise InputError(f"prepare.unit ({unit}) must be one of {', '.join(get_args(Unit))}")
        self.source, self.unit = source, unit
        self._sentences = Sentences()

    def fingerprint(self) -> dict[str, Any]:
        return {**self.source.fingerprint(), "unit": self.unit}

    def records(self, split: str) -> Iterator[LabeledText]:
        held = ""
        for piece in self.source.records(split):
            *whole, held = self._cut(held + piece.text)
            if piece.end:
                whole, held = [*whole, held], ""
            yield from (LabeledText(text) for part in whole if (text := part.strip()))

    def _cut(self, text: str) -> list[str]:
        """The units of a text, of which the last may go on; with the white space that follows it."""
        if self.unit == "document":
            return [text]
        if self.unit == "line":
            return text.split("\n")
        starts = [start for start, _ in self._sentences.spans(text)] or [0]
        return [text[start:stop] for start, stop in zip(starts, [*starts[1:], len(text)], strict=True)]
