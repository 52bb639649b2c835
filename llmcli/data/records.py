"""The typed examples that readers yield, one at a time.

Every kind knows its texts: `texts()` are what a tokenizer is trained on, `with_texts(change)` is the same example with
each text changed (None: the example is dropped). Labels and tags are names, never class ids.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from llmcli.text.segment.base import UNSPACED

Change = Callable[[str], str | None]
_CHINESE = re.compile(f"[{UNSPACED}]")


class Record(ABC):
    """One example. Its fields are text, numbers, and tuples of them."""

    @abstractmethod
    def texts(self) -> tuple[str, ...]: ...

    @abstractmethod
    def with_texts(self, change: Change) -> Self | None: ...

    def inputs(self) -> tuple[str, ...]:
        """Those of its texts that are given and not asked for: what makes two examples the same."""
        return self.texts()

    def names(self) -> tuple[str, ...]:
        """The labels or tags that it carries."""
        return ()


@dataclass(frozen=True)
class Text(Record):
    """A document of running text, or a piece of a long one; pieces follow each other, the last has `end`."""

    text: str
    end: bool = True

    def texts(self) -> tuple[str, ...]:
        return (self.text,)

    def with_texts(self, change: Change) -> Self | None:
        text = change(self.text)
        return None if text is None else replace(self, text=text)


@dataclass(frozen=True)
class LabeledText(Record):
    """A text with its class, with several (or none, where several are allowed), or with a number to predict."""

    text: str
    labels: tuple[str, ...] = ()
    value: float | None = None

    def texts(self) -> tuple[str, ...]:
        return (self.text,)

    def with_texts(self, change: Change) -> Self | None:
        text = change(self.text)
        return None if text is None else replace(self, text=text)

    def names(self) -> tuple[str, ...]:
        return self.labels


@dataclass(frozen=True)
class LabeledPair(Record):
    """Two texts with what holds between them: entailment, similarity, relevance."""

    first: str
    second: str
    labels: tuple[str, ...] = ()
    value: float | None = None

    def texts(self) -> tuple[str, ...]:
        return (self.first, self.second)

    def with_texts(self, change: Change) -> Self | None:
        first, second = change(self.first), change(self.second)
        return None if first is None or second is None else replace(self, first=first, second=second)

    def names(self) -> tuple[str, ...]:
        return self.labels


@dataclass(frozen=True)
class TaggedTokens(Record):
    """One sentence with a tag for each token; spans of entities in IOB2 (B-X begins, I-X goes on, O is outside)."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.tags):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.tags)} tags")

    def texts(self) -> tuple[str, ...]:
        return self.tokens

    def with_texts(self, change: Change) -> Self | None:
        """A token that a change empties stays as it was: its tag needs a place."""
        return replace(self, tokens=tuple(change(token) or token for token in self.tokens))

    def names(self) -> tuple[str, ...]:
        return self.tags

    def joined(self) -> tuple[str, list[tuple[int, int]]]:
        """The tokens as one text, and where each stands in it: nothing between characters or Chinese, else a space."""
        characters = sum(map(len, self.tokens))
        chinese = sum(len(_CHINESE.findall(token)) for token in self.tokens)
        between = "" if characters == len(self.tokens) or 2 * chinese > characters else " "
        places, start = [], 0
        for token in self.tokens:
            places.append((start, start + len(token)))
            start += len(token) + len(between)
        return between.join(self.tokens), places


@dataclass(frozen=True)
class TextPair(Record):
    """A source text and the text it should become: a translation, a summary, an answer."""

    source: str
    target: str

    def texts(self) -> tuple[str, ...]:
        return (self.source, self.target)

    def inputs(self) -> tuple[str, ...]:
        return (self.source,)

    def with_texts(self, change: Change) -> Self | None:
        source, target = change(self.source), change(self.target)
        return None if source is None or target is None else replace(self, source=source, target=target)


@dataclass(frozen=True)
class QuestionAnswer(Record):
    """A question and where its answers stand: `context[start : start + len(answer)] == answer`; none: unanswerable."""

    question: str
    context: str
    answers: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()
    id: str = ""

    def __post_init__(self) -> None:
        if len(self.answers) != len(self.starts):
            raise ValueError(f"{len(self.answers)} answers but {len(self.starts)} places")
        for answer, start in zip(self.answers, self.starts, strict=True):
            if self.context[start : start + len(answer)] != answer or start < 0:
                raise ValueError(f"the answer {answer[:40]!r} does not stand at character {start:,} of its context")

    def texts(self) -> tuple[str, ...]:
        return (self.question, self.context)

    def with_texts(self, change: Change) -> Self | None:
        """The context is changed around the answers, so that each still stands where it is said to; an example whose
        answer cannot be found again is dropped. What would drop a whole text says nothing about a part of one."""
        question, context = change(self.question), change(self.context)
        if question is None or context is None:
            return None
        answers, starts = [], []
        for answer, start in zip(self.answers, self.starts, strict=True):
            changed = _or_same(change, answer).strip()
            near = len(_or_same(change, self.context[:start]))
            place = _nearest(context, changed, near) if changed else -1
            if place < 0:
                return None
            answers.append(changed)
            starts.append(place)
        return replace(self, question=question, context=context, answers=tuple(answers), starts=tuple(starts))


@dataclass(frozen=True)
class MultipleChoice(Record):
    """A question about a context (which may be empty), the choices, and the place of the right one.

    group: what the question is an example of, for scores by group ("" where there are none).
    """

    context: str
    question: str
    choices: tuple[str, ...]
    answer: int
    group: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(f"the answer is choice {self.answer} of {len(self.choices)}")

    def texts(self) -> tuple[str, ...]:
        return (self.context, self.question, *self.choices)

    def with_texts(self, change: Change) -> Self | None:
        texts = [changed for text in self.texts() if (changed := change(text) if text else text) is not None]
        if len(texts) < 2 + len(self.choices):
            return None
        return replace(self, context=texts[0], question=texts[1], choices=tuple(texts[2:]))


@dataclass(frozen=True)
class Turn:
    """What one side says. role: "system", "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation(Record):
    """A system prompt, where there is one, then turns."""

    turns: tuple[Turn, ...]

    def texts(self) -> tuple[str, ...]:
        return tuple(turn.text for turn in self.turns)

    def with_texts(self, change: Change) -> Self | None:
        turns = _changed(self.turns, change)
        return None if turns is None else replace(self, turns=turns)


@dataclass(frozen=True)
class Preference(Record):
    """A conversation so far and two answers to it, of which one is preferred."""

    turns: tuple[Turn, ...]
    chosen: str
    rejected: str

    def texts(self) -> tuple[str, ...]:
        return (*(turn.text for turn in self.turns), self.chosen, self.rejected)

    def inputs(self) -> tuple[str, ...]:
        return tuple(turn.text for turn in self.turns)

    def with_texts(self, change: Change) -> Self | None:
        turns, chosen, rejected = _changed(self.turns, change), change(self.chosen), change(self.rejected)
        if turns is None or chosen is None or rejected is None:
            return None
        return replace(self, turns=turns, chosen=chosen, rejected=rejected)


KINDS: dict[str, type[Record]] = {kind.__name__: kind for kind in Record.__subclasses__()}


def to_plain(record: Record) -> list[Any]:
    """The field values in order, as JSON has them; `from_plain` is the inverse."""
    return [_plain(getattr(record, name)) for name in record.__dataclass_fields__]  # type: ignore[attr-defined]


def from_plain(kind: type[Record], values: Iterable[Any]) -> Record:
    fixed = [tuple(value) if isinstance(value, list) else value for value in values]
    if kind in (Conversation, Preference):
        fixed[0] = tuple(Turn(*turn) for turn in fixed[0])
    return kind(*fixed)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return [value.role, value.text] if isinstance(value, Turn) else value


def _changed(turns: tuple[Turn, ...], change: Change) -> tuple[Turn, ...] | None:
    texts = [change(turn.text) for turn in turns]
    return (
        None if None in texts else tuple(Turn(turn.role, text or "") for turn, text in zip(turns, texts, strict=True))
    )


def _or_same(change: Change, part: str) -> str:
    changed = change(part)
    return part if changed is None else changed


def _nearest(text: str, part: str, near: int) -> int:
    """Where `part` stands in `text`, of several places the one closest to `near`; -1 where it does not."""
    before, after = text.rfind(part, 0, near + len(part)), text.find(part, near)
    found = [place for place in (before, after) if place >= 0]
    return min(found, key=lambda place: abs(place - near), default=-1)
