"""Questions with answers that stand in a text: SQuAD JSON (Rajpurkar et al. 2016, 2018), and tables like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from llmcli.data.decode import check_encoding
from llmcli.data.formats import json_list
from llmcli.data.formats.row import Column, Row, well_formed
from llmcli.data.reader import Flaw
from llmcli.data.readers.text_lines import KEY, blocks
from llmcli.data.readers.values import parsed
from llmcli.data.records import QuestionAnswer
from llmcli.data.rows import RowReader
from llmcli.errors import InputError

Offsets = Literal["check", "find"]
_OFFSETS = ("check", "find")
_SKIP = "data.flaws=skip leaves such questions out"
_FIND = f"{KEY}.offsets=find looks for the answer in the text; {_SKIP}"


@dataclass(frozen=True, kw_only=True)
class SquadJson:
    """SQuAD 1.1 and 2.0, with contexts kept whole; a question with `is_impossible` or without answers has none.

    offsets: "check" makes a question whose answer does not stand where it is said to a flaw; "find" takes the nearest
    place where it stands, and leaves out an answer that stands nowhere while the question has others. encoding: "auto"
    finds it out. One article at a time is in memory.
    """

    record: ClassVar[type[QuestionAnswer]] = QuestionAnswer

    offsets: Offsets
    encoding: str

    def __post_init__(self) -> None:
        _check_offsets(self.offsets)
        check_encoding(self.encoding, f"{KEY}.encoding")

    def read(self, files: Sequence[Path]) -> Iterator[QuestionAnswer | Flaw]:
        for name, text in blocks(files, self.encoding):
            for article in json_list.read(text, name, root="data"):
                if isinstance(article, Flaw):
                    yield article
                else:
                    yield from self._article(article)

    def _article(self, article: Row) -> Iterator[QuestionAnswer | Flaw]:
        for paragraph_number, paragraph in enumerate(_objects(article.values.get("paragraphs")), start=1):
            place = f"{article.where}, paragraph {paragraph_number:,}"
            if paragraph is None or not isinstance(paragraph.get("qas"), list):
                yield Flaw(place, 'a paragraph must be an object with "context" and a list "qas"')
                continue
            for number, question in enumerate(_objects(paragraph["qas"]), start=1):
                where = f"{place}, question {number:,}"
                if question is None:
                    yield Flaw(where, "a question must be an object")
                    continue
                try:
                    row = Row(where, {**question, "context": paragraph.get("context")})
                    yield self._question(row)
                except ValueError as err:
                    yield Flaw(f"{where} ({question.get('id')})", str(err), getattr(err, "hint", ""))

    def _question(self, row: Row) -> QuestionAnswer:
        answers: Any = [] if row.values.get("is_impossible") else row.values.get("answers", [])
        given = []
        for answer in _objects(answers):
            text, start = (None if answer is None else answer.get(key) for key in ("text", "answer_start"))
            if not isinstance(text, str) or not isinstance(start, int):
                raise ValueError(f'an answer must have "text" and a number "answer_start", not {str(answer)[:60]}')
            given.append((well_formed(text), start))
        context = row.text("context", KEY)
        found = _located(given, context, self.offsets)
        return _made(row.text("question", KEY), context, found, str(row.values.get("id", "")))


@dataclass(frozen=True, kw_only=True)
class QuestionRows(RowReader):
    """A question in each row of a table or object of a list.

    question, context, answers, starts, id: their columns. An answer is text, or a list of texts as JSON or Python
    writes it; so are its starts, of which two numbers with one answer are a start and an end. starts may be None:
    answers are looked for; id may be None. SQuAD's `{"text": [...], "answer_start": [...]}` in one column is read too.
    unanswerable: what the column says where there is no answer, besides nothing at all; where the context ends with it,
    it is taken away. offsets: as with SquadJson; answers that differ from the text in spaces and signs alone are right.
    """

    record: ClassVar[type[QuestionAnswer]] = QuestionAnswer

    question: Column
    context: Column
    answers: Column
    starts: Column | None
    id: Column | None
    unanswerable: str | None
    offsets: Offsets

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_offsets(self.offsets)

    def example(self, row: Row) -> QuestionAnswer:
        context = row.text(self.context, f"{KEY}.context")
        if self.unanswerable:
            context = context.rstrip().removesuffix(self.unanswerable).rstrip()
        value = parsed(row.get(self.answers, f"{KEY}.answers"))
        starts = None if self.starts is None else parsed(row.get(self.starts, f"{KEY}.starts"))
        if isinstance(value, dict):
            value, starts = (value.get(key) for key in ("text", "answer_start"))
        answers = [well_formed(each) for each in _texts(value) if each.strip() and each != self.unanswerable]
        if not answers:
            found = []
        elif starts is None:
            found = _located([(answer, 0) for answer in answers], context, "find")
        else:
            found = _located(_with_starts(answers, starts, context), context, self.offsets)
        name = "" if self.id is None else row.name(self.id, f"{KEY}.id")
        return _made(row.text(self.question, f"{KEY}.question"), context, found, name)


def _made(question: str, context: str, found: list[tuple[str, int]], name: str) -> QuestionAnswer:
    unique = dict.fromkeys(found)
    return QuestionAnswer(question, context, tuple(text for text, _ in unique), tuple(at for _, at in unique), name)


def _located(given: list[tuple[str, int]], context: str, offsets: Offsets) -> list[tuple[str, int]]:
    """Answers that stand where they are said to. Raises InputError for one that does not, or all with "find"."""
    found = []
    for answer, start in given:
        if not answer.strip():
            raise InputError("an answer is empty", _SKIP)
        if start >= 0 and context.startswith(answer, start):
            found.append((answer, start))
        elif offsets == "check":
            shown = f"{answer[:40]}..." if len(answer) > 40 else answer
            raise InputError(f"the answer {shown!r} does not stand at character {start:,} of its context", _FIND)
        elif (place := _nearest(context, answer, max(start, 0))) >= 0:
            found.append((answer, place))
    if given and not found:
        raise InputError(f"the answer {given[0][0][:40]!r} stands nowhere in its context", _SKIP)
    return found


def _nearest(context: str, answer: str, start: int) -> int:
    after, before = context.find(answer, start), context.rfind(answer, 0, start + len(answer))
    places = [place for place in (before, after) if place >= 0]
    return min(places, key=lambda place: abs(place - start), default=-1)


def _with_starts(answers: list[str], starts: Any, context: str) -> list[tuple[str, int]]:
    """Answers with their starts; one that the context writes with other spaces or signs is taken from there."""
    starts = int(starts) if isinstance(starts, str) and starts.strip().isdecimal() else starts
    numbers = [starts] if isinstance(starts, int) else list(starts) if isinstance(starts, list | tuple) else []
    if not numbers or any(type(number) is not int for number in numbers):
        raise ValueError(f"the starts of the answers must be numbers, not {str(starts)[:40]}")
    if len(answers) == 1 and len(numbers) == 2:  # where it starts and ends
        start, end = numbers
        written = context[start:end] if 0 <= start < end <= len(context) else ""
        return [(written if _letters(written) == _letters(answers[0]) else answers[0], start)]
    if len(numbers) != len(answers):
        raise ValueError(f"{len(answers)} answers but {len(numbers)} starts")
    return list(zip(answers, numbers, strict=True))


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str | int | float):
        return [str(value)]
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return list(value)
    raise ValueError(f"answers must be text or a list of texts, not {str(value)[:40]}")


def _objects(values: Any) -> Iterator[dict[str, Any] | None]:
    """The objects of a list, None for what is no object, and one None where there is no list."""
    for value in values if isinstance(values, list) else [None]:
        yield value if isinstance(value, dict) else None


def _check_offsets(offsets: str) -> None:
    if offsets not in _OFFSETS:
        raise InputError(f"{KEY}.offsets ({offsets}) must be one of {', '.join(_OFFSETS)}")
