"""DailyDialog (Li et al. 2017): a dialogue on each line, every turn ended by `__eou__`; labels in files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

from llmcli.data.decode import LONGEST, check_encoding
from llmcli.data.reader import Flaw
from llmcli.data.readers.text_lines import KEY, numbered
from llmcli.data.records import Conversation, LabeledText, Turn
from llmcli.errors import InputError

END_OF_TURN = "__eou__"
_ROLES = ("user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Dialogues:
    """The dialogues; of two speakers, who take turns, the first is called the user. encoding: "auto" finds it out."""

    record: ClassVar[type[Conversation]] = Conversation

    encoding: str

    def __post_init__(self) -> None:
        check_encoding(self.encoding, f"{KEY}.encoding")

    def read(self, files: Sequence[Path]) -> Iterator[Conversation | Flaw]:
        for name, number, line in numbered(files, self.encoding):
            if line.strip():
                turns = _turns(line, f"{name}, line {number:,}")
                if isinstance(turns, Flaw):
                    yield turns
                else:
                    yield Conversation(tuple(Turn(_ROLES[place % 2], text) for place, text in enumerate(turns)))


@dataclass(frozen=True, kw_only=True)
class DialogueLabels:
    """The turns of the dialogues, each with its label: the files are dialogues, then as many files with the ids of the
    labels of their turns. names: of the labels, by id. A line with more or fewer labels than turns is a flaw."""

    record: ClassVar[type[LabeledText]] = LabeledText

    names: dict[int, str]
    encoding: str

    def __post_init__(self) -> None:
        check_encoding(self.encoding, f"{KEY}.encoding")

    def read(self, files: Sequence[Path]) -> Iterator[LabeledText | Flaw]:
        half = len(files) // 2
        if len(files) % 2 or not files:
            raise InputError(f"dialogues and their labels are files in pairs, not {len(files)}")
        dialogues, labels = (numbered(some, self.encoding) for some in (files[:half], files[half:]))
        known = {str(key): name for key, name in self.names.items()}
        for dialogue, label in zip_longest(dialogues, labels):
            if dialogue is None or label is None:
                more, fewer = (files[:half], files[half:]) if label is None else (files[half:], files[:half])
                raise InputError(f"{_listed(more)} has more lines than {_listed(fewer)}")
            name, number, line = dialogue
            if not line.strip() and not label[2].strip():
                continue
            where = f"{name}, line {number:,}"
            turns, ids = _turns(line, where), label[2].split()
            if isinstance(turns, Flaw):
                yield turns
            elif len(turns) != len(ids):
                yield Flaw(where, f"{len(turns)} turns, but {len(ids)} labels in {label[0]}")
            elif unknown := next((each for each in ids if each not in known), None):
                yield Flaw(where, f"there is no name for the label {unknown!r}; {KEY}.names has: {', '.join(known)}")
            else:
                yield from (LabeledText(text, (known[each],)) for text, each in zip(turns, ids, strict=True))


def _turns(line: str, where: str) -> list[str] | Flaw:
    if len(line) > LONGEST:
        return Flaw(where, f"a line of more than {LONGEST:,} characters")
    *turns, rest = (turn.strip() for turn in line.split(END_OF_TURN))
    if rest:
        return Flaw(where, f"the last turn does not end with {END_OF_TURN}")
    empty = next((place for place, turn in enumerate(turns, start=1) if not turn), None)
    return turns if empty is None else Flaw(where, f"turn {empty} is empty")


def _listed(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))
