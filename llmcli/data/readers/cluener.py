"""CLUENER: a text on each line, with the places of the things named in it, by characters (Xu et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llmcli.data.decode import check_encoding
from llmcli.data.formats import json_lines
from llmcli.data.formats.row import Row
from llmcli.data.reader import Flaw
from llmcli.data.readers.text_lines import KEY, blocks
from llmcli.data.records import TaggedTokens


@dataclass(frozen=True, kw_only=True)
class CluenerLines:
    """`{"text": ..., "label": {kind: {mention: [[first, last], ...]}}}` on each line; `last` is inside the mention.

    Every character is a token. Spans that overlap, leave the text, or hold another text than the mention are flaws, and
    so is a line without labels. encoding: "auto" finds it out.
    """

    record: ClassVar[type[TaggedTokens]] = TaggedTokens

    encoding: str

    def __post_init__(self) -> None:
        check_encoding(self.encoding, f"{KEY}.encoding")

    def read(self, files: Sequence[Path]) -> Iterator[TaggedTokens | Flaw]:
        for name, text in blocks(files, self.encoding):
            for row in json_lines.read(text, name):
                if isinstance(row, Flaw):
                    yield row
                    continue
                try:
                    yield _tagged(row)
                except ValueError as err:
                    yield Flaw(row.where, str(err))


def _tagged(row: Row) -> TaggedTokens:
    text, label = row.text("text", f"{KEY}.text"), row.values.get("label")
    if not isinstance(label, dict):
        raise ValueError("there are no labels: a test set that keeps them back")
    tags = ["O"] * len(text)
    for kind, mentions in label.items():
        for mention, places in _items(mentions, kind):
            for first, last in _places(places, mention):
                if not 0 <= first <= last < len(text):
                    raise ValueError(f"{mention!r} is at {first} to {last} of a text of {len(text)} characters")
                if text[first : last + 1] != mention:
                    raise ValueError(f"{mention!r} is said to be at {first}, where {text[first : last + 1]!r} stands")
                if any(tag != "O" for tag in tags[first : last + 1]):
                    raise ValueError(f"{mention!r} at {first} overlaps with another mention")
                tags[first : last + 1] = [f"B-{kind}", *[f"I-{kind}"] * (last - first)]
    return TaggedTokens(tuple(text), tuple(tags))


def _items(mentions: Any, kind: str) -> list[tuple[str, Any]]:
    if not isinstance(mentions, dict):
        raise ValueError(f"the mentions of {kind} must be an object, not {str(mentions)[:40]}")
    return list(mentions.items())


def _places(places: Any, mention: str) -> list[tuple[int, int]]:
    if isinstance(places, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(each) is int for each in pair) for pair in places
    ):
        return [(first, last) for first, last in places]
    raise ValueError(f"the places of {mention!r} must be pairs of numbers, not {str(places)[:40]}")
