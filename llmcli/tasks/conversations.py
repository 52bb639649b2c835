"""What becomes of conversations and preferences on their way to a model: rows of ids, and labels for what is learned.

Shapes: T ids of a row, N ids of a conversation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from llmcli.data.chat_template import ChatTemplate
from llmcli.data.example_batches import Row, Sizes, shortened
from llmcli.data.records import Conversation, Preference, Record, Text
from llmcli.data.turns import ASSISTANT, SYSTEM, USER, Ids, Turns
from llmcli.errors import InputError
from llmcli.losses import IGNORED
from llmcli.tokenizers.base import Tokenizer

Lengths = NDArray[np.int64]
EXCHANGE = (USER, ASSISTANT)
NO_EXAMPLE = -1  # in `segment_ids`, where padding stands


class ConversationEncoder:
    """A conversation as `ids` (T,), and `labels` (T,): the next ids where the assistant says them. One that is too long
    loses its last exchanges; where the first alone is too long, its texts lose their ends, the longest first, and an
    answer that is cut does not seem to end there.

    pack: several conversations of a batch in one row, `segment_ids` (T,) saying of which in the batch each id is.
    """

    fate = "cut after a whole exchange, or within the first"

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, *, pack: bool) -> None:
        self.turns, self.pack = Turns(template, tokenizer), pack
        self.pad: Mapping[str, int] = {"ids": tokenizer.pad_id or 0, "labels": IGNORED, "segment_ids": NO_EXAMPLE}

    @property
    def extra(self) -> int:
        return _least(self.turns)

    def rows(self, record: Record, ids: list[Ids], limit: int) -> list[Row]:
        assert isinstance(record, Conversation)
        roles = tuple(turn.role for turn in record.turns)
        first = 2 + (roles[:1] == (SYSTEM,))  # turns up to the first answer
        ends = np.cumsum([len(text) for text in ids])

        def size(count: int) -> int:
            return self.turns.layout(roles[:count]).fixed + int(ends[count - 1]) - 1

        with _place(record):
            kept = len(roles)
            if size(kept) > limit:
                counts = range(first, len(roles) + 1, 2)
                kept = counts[max(0, bisect_right(counts, limit, key=size) - 1)]
            return [_row(self.turns, roles[:kept], ids[:kept], limit)]

    def sizes(self, lengths: Lengths, first: Lengths, limit: int | None) -> Sizes:
        """What is cut may be shorter than this says."""
        texts = np.diff(first, append=len(lengths))
        fixed = {int(count): self.turns.layout(_roles(int(count))).fixed for count in np.unique(texts)}
        rows = np.add.reduceat(lengths, first) + [fixed[count] - 1 for count in texts.tolist()]
        if limit is not None:
            rows = np.minimum(rows, limit)
        return Sizes(np.ones_like(rows), rows, rows)

    def packed(self, rows: Sequence[Row], limit: int) -> list[Row]:
        """The rows of a batch, where `pack` says so as many in one as fit in `limit` ids: the longest first, each into
        the first row that has room for it."""
        if not self.pack:
            return list(rows)
        bins: list[list[int]] = []
        room: list[int] = []
        for number in sorted(range(len(rows)), key=lambda number: -len(rows[number]["ids"])):
            size = len(rows[number]["ids"])
            place = next((place for place, left in enumerate(room) if left >= size), len(bins))
            if place == len(bins):
                bins.append([])
                room.append(limit)
            bins[place].append(number)
            room[place] -= size
        return [_joined(rows, numbers) for numbers in bins]


class PreferenceEncoder:
    """The two answers as rows of `ids` and `labels` (T,), the preferred one first, after the same turns. Where a row is
    too long the oldest exchanges go, then the ends of texts, the longest first."""

    fate = "cut: the oldest exchanges, then the ends of texts"

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self.turns = Turns(template, tokenizer)
        self.pad: Mapping[str, int] = {"ids": tokenizer.pad_id or 0, "labels": IGNORED}

    @property
    def extra(self) -> int:
        return _least(self.turns)

    def rows(self, record: Record, ids: list[Ids], limit: int) -> list[Row]:
        assert isinstance(record, Preference)
        *before, chosen, rejected = ids
        roles = [turn.role for turn in record.turns]
        longest = max(chosen, rejected, key=len)
        begin = int(roles[:1] == [SYSTEM])
        with _place(record):
            while len(roles) > begin + 1:
                if self._size(roles, [*before, longest]) <= limit:
                    break
                del roles[begin : begin + 2], before[begin : begin + 2]
            room = limit + 1 - self.turns.layout([*roles, ASSISTANT]).fixed
            _, (*before, kept) = shortened(record, [*before, longest], room)
            answers = ((answer[: len(kept)], len(answer) > len(kept)) for answer in (chosen, rejected))
            rows = [_row(self.turns, [*roles, ASSISTANT], [*before, answer], limit, cut=cut) for answer, cut in answers]
            begin = len(self.turns.prompt(roles, before))
        for place, row in enumerate(rows):
            row["labels"][: begin - 1] = IGNORED  # what the assistant said before is no part of the answer
            row["n_tokens"] = int(place == 0)
        return rows

    def _size(self, roles: Sequence[str], ids: Sequence[Ids]) -> int:
        return self.turns.layout([*roles, ASSISTANT]).fixed + sum(map(len, ids)) - 1

    def sizes(self, lengths: Lengths, first: Lengths, limit: int | None) -> Sizes:
        """What is cut may be shorter than this says."""
        texts = np.diff(first, append=len(lengths))
        fixed = {int(count): self.turns.layout(_roles(int(count) - 1)).fixed for count in np.unique(texts)}
        answers = np.stack((lengths[first + texts - 2], lengths[first + texts - 1]))  # (2, E)
        before = np.add.reduceat(lengths, first) - answers.sum(0) + [fixed[count] - 1 for count in texts.tolist()]
        rows = before + answers
        if limit is not None:
            rows = np.minimum(rows, limit)
        return Sizes(np.full_like(before, 2), rows.max(0), rows.sum(0))


def as_prompt(template: ChatTemplate, text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids after which the answer to a single message begins."""
    return Turns(template, tokenizer).prompt([USER], [tokenizer.encode(text)])


def _least(turns: Turns) -> int:
    """What one exchange takes, after a system text where the template has a place for one: an id for each text."""
    try:
        return turns.layout((SYSTEM, *EXCHANGE)).fixed + 3
    except InputError:  # no system text; where there is one, that is said
        return turns.layout(EXCHANGE).fixed + 2


def _row(turns: Turns, roles: Sequence[str], ids: Sequence[Ids], limit: int, *, cut: bool = False) -> Row:
    """Turns up to an answer as one row. cut: the answer goes on, and does not seem to end."""
    layout = turns.layout(roles)
    room = max(limit + 1 - layout.fixed, len(ids))
    if sum(map(len, ids)) > room:
        whole = len(ids[-1])
        _, ids = shortened(Text(""), list(ids), room)
        cut = cut or len(ids[-1]) < whole
    row, said = layout.fill(ids)
    if cut:  # what stands after the text of the last answer is its end
        after = [part.turn for part in layout.parts].index(len(roles) - 1) + 1
        end = len(row) - sum(len(part.ids) for part in layout.parts[after:])
        row, said = row[:end], said[:end]
    labels = np.where(said[1:], row[1:], IGNORED)
    return {"ids": row[:-1], "labels": labels, "n_tokens": int(said[1:].sum())}


def _joined(rows: Sequence[Row], numbers: Sequence[int]) -> Row:
    chosen = [rows[number] for number in numbers]
    return {
        "ids": np.concatenate([row["ids"] for row in chosen]),
        "labels": np.concatenate([row["labels"] for row in chosen]),
        "segment_ids": np.repeat(numbers, [len(row["ids"]) for row in chosen]),
        "n_tokens": sum(row["n_tokens"] for row in chosen),
    }


def _roles(count: int) -> tuple[str, ...]:
    """Of a conversation of so many turns that ends with an answer: an odd one is the system's."""
    return (SYSTEM,) * (count % 2) + EXCHANGE * (count // 2)


@contextmanager
def _place(record: Record) -> Iterator[None]:
    """Adds to an error how the conversation begins that it is about."""
    try:
        yield
    except InputError as err:
        opening = next(iter(record.texts()), "")[:40]
        raise InputError(f"the conversation that begins {opening!r}: {err}", err.hint) from err
