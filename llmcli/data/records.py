"""The typed examples that readers yield, one at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A document of running text, or a piece of a long one; pieces follow each other, the last has `end`."""

    text: str
    end: bool = True


@dataclass(frozen=True)
class TaggedTokens:
    """One sentence with a tag for each token."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.tags):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.tags)} tags")


@dataclass(frozen=True)
class TextPair:
    """A source text and the text it should become: a translation, a summary, an answer."""

    source: str
    target: str
