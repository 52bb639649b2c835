"""Conversations as OpenAI's messages, ShareGPT or Alpaca write them, one in each object of a list or row of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from llmcli.data.formats.row import Row, well_formed
from llmcli.data.readers.text_lines import KEY
from llmcli.data.readers.values import parsed
from llmcli.data.records import Conversation, Turn
from llmcli.data.rows import RowReader
from llmcli.errors import InputError

# the list of turns, and in each turn the role and the text
SHAPES = {"openai": ("messages", "role", "content"), "sharegpt": ("conversations", "from", "value")}
_ALPACA = "alpaca"
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True, kw_only=True)
class ChatRows(RowReader):
    """`{"messages": [{"role": ..., "content": ...}]}`, `{"conversations": [{"from": ..., "value": ...}]}`, or
    `{"instruction": ..., "input": ..., "output": ...}` with an optional `history` of pairs; a `system` text beside them
    comes first. shape: "auto" sees from the keys of each object which it is.

    A conversation whose turns are not, after the system's, the user's and the assistant's in turn is a flaw.
    """

    record: ClassVar[type[Conversation]] = Conversation

    shape: Literal["auto", "openai", "sharegpt", "alpaca"]

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("auto", *SHAPES, _ALPACA)
        if self.shape not in known:
            raise InputError(f"{KEY}.shape ({self.shape}) must be one of {', '.join(known)}")

    def example(self, row: Row) -> Conversation:
        found = turns(row, shape_of(row) if self.shape == "auto" else self.shape)
        check_order(found, answered=True)
        return Conversation(tuple(found))


def shape_of(row: Row) -> str:
    """Raises InputError, naming the keys that there are, where it is none."""
    for shape, (key, _, _) in SHAPES.items():
        if key in row.values:
            return shape
    if "instruction" in row.values:
        return _ALPACA
    keys = ", ".join(row.values) or "none"
    raise InputError(
        f"no conversation: none of messages, conversations, instruction among the keys {keys}",
        'wanted is {"messages": [{"role": "user", "content": ...}, ...]}, or how ShareGPT or Alpaca write it',
    )


def turns(row: Row, shape: str) -> list[Turn]:
    """The turns of a row, the system's first, in the order in which they stand."""
    system = row.values.get("system")
    first = [Turn("system", _text(system, "system"))] if isinstance(system, str) and system.strip() else []
    if shape == _ALPACA:
        output = row.text("output", f"{KEY}.shape")
        return [*first, *_history(row), Turn("user", request(row)), Turn("assistant", output)]
    key, role, text = SHAPES[shape]
    return [*first, *messages(row.get(key, f"{KEY}.shape"), key, role, text)]


def request(row: Row) -> str:
    """What Alpaca asks: the instruction, and the input below it where there is one."""
    instruction, given = row.text("instruction", f"{KEY}.shape"), row.values.get("input")
    return f"{instruction}\n\n{_text(given, 'input')}" if isinstance(given, str) and given.strip() else instruction


def messages(value: Any, key: str, role: str, text: str) -> list[Turn]:
    """A list of objects with a role and a text."""
    value = parsed(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f'"{key}" must be a list of turns, not {str(value)[:40]}')
    found = []
    for number, each in enumerate(value, start=1):
        if not isinstance(each, dict) or role not in each or text not in each:
            raise ValueError(f'turn {number} must be an object with "{role}" and "{text}", not {str(each)[:60]}')
        name = str(each[role]).lower()
        if name not in _ROLES:
            raise ValueError(f"turn {number} has the role {each[role]!r}; the roles are system, user, assistant")
        found.append(Turn(_ROLES[name], _text(each[text], f"turn {number}")))
    # a system text that says nothing is the same as none
    return [turn for turn in found if turn.role != "system" or turn.text.strip()]


def check_order(found: Sequence[Turn], *, answered: bool) -> None:
    """Raises ValueError unless the user begins and both take turns, after a system text where there is one.

    answered: the assistant has the last word, else the user.
    """
    rest = [turn for turn in found if turn.role != "system"]
    if len(rest) < len(found) - 1 or (len(rest) < len(found) and found[0].role != "system"):
        raise ValueError("the system's text must come first, and once")
    for number, turn in enumerate(rest, start=1 + len(found) - len(rest)):
        expected = "user" if (number - len(found) + len(rest)) % 2 else "assistant"
        if turn.role != expected:
            raise ValueError(f"turn {number} is the {turn.role}'s, and should be the {expected}'s")
        if not turn.text.strip():
            raise ValueError(f"turn {number} is empty")
    last = "assistant" if answered else "user"
    if not rest or rest[-1].role != last:
        raise ValueError(f"the {last} must have the last turn")


def _history(row: Row) -> Iterable[Turn]:
    for pair in parsed(row.values.get("history")) or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f'"history" must hold pairs of a question and an answer, not {str(pair)[:40]}')
        yield from (Turn("user", _text(pair[0], "history")), Turn("assistant", _text(pair[1], "history")))


def _text(value: Any, what: str) -> str:
    """Text, also as a list of parts of the type "text"."""
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in value]
        value = "".join(part for part in parts if isinstance(part, str)) if all(map(_is_text, value)) else value
    if not isinstance(value, str):
        raise ValueError(f"{what} must be text, not {str(value)[:40]}")
    return well_formed(value)


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))
