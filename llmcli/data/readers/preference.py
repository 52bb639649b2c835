"""Two answers to the same words, of which one is preferred, in the shapes that are common."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from llmcli.data.formats.row import Row, well_formed
from llmcli.data.readers.chat import SHAPES, check_order, messages, request
from llmcli.data.readers.text_lines import KEY
from llmcli.data.readers.values import parsed
from llmcli.data.records import Preference, Turn
from llmcli.data.rows import RowReader

# a dialogue as text, in the manner of Anthropic's helpful-harmless data (Bai et al. 2022)
_SPOKEN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


@dataclass(frozen=True, kw_only=True)
class PreferenceRows(RowReader):
    """A row has `chosen` and `rejected`: texts, turns, or whole conversations with the same beginning (lists of
    messages, or text with "Human:" and "Assistant:"). What they answer is that beginning, or stands in `prompt` (text
    or turns), `messages`, `conversations`, or `instruction` and `input`; a `system` text comes before it.

    Answers that are the same, and conversations that part before their last turn, are flaws.
    """

    record: ClassVar[type[Preference]] = Preference

    def example(self, row: Row) -> Preference:
        before = _before(row)
        chosen, rejected = (_answer(row.get(name, KEY), name) for name in ("chosen", "rejected"))
        if chosen[:-1] != rejected[:-1]:
            raise ValueError("chosen and rejected part before their last turn")
        system = row.values.get("system")
        first = [Turn("system", well_formed(system))] if isinstance(system, str) and system.strip() else []
        repeated = chosen[: len(before)] == before
        turns = [*first, *([] if repeated else before), *chosen[:-1]]
        check_order(turns, answered=False)
        texts = [answer[-1].text for answer in (chosen, rejected)]
        for name, answer, text in zip(("chosen", "rejected"), (chosen, rejected), texts, strict=True):
            if answer[-1].role != "assistant" or not text.strip():
                raise ValueError(f"{name} has no answer of the assistant")
        if texts[0] == texts[1]:
            raise ValueError("chosen and rejected are the same")
        return Preference(tuple(turns), *texts)


def _before(row: Row) -> list[Turn]:
    """What stands before the answers, in a key of its own; nothing where they tell it themselves."""
    for key, role, text in SHAPES.values():
        if key in row.values:
            return messages(row.values[key], key, role, text)
    if "prompt" in row.values:
        prompt = parsed(row.values["prompt"])
        return _turns(prompt, "prompt") if isinstance(prompt, list) else _spoken(row.text("prompt", KEY), "user")
    return [Turn("user", request(row))] if "instruction" in row.values else []


def _answer(value: Any, name: str) -> list[Turn]:
    """The turns of an answer, or of a conversation that ends with it."""
    value = parsed(value)
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return _turns(value, name)
    if not isinstance(value, str):
        raise ValueError(f'"{name}" must be text or turns, not {str(value)[:40]}')
    return _spoken(well_formed(value), "assistant")


def _turns(value: list[Any], name: str) -> list[Turn]:
    shape = "sharegpt" if value and isinstance(value[0], dict) and "from" in value[0] else "openai"
    return messages(value, name, *SHAPES[shape][1:])


def _spoken(text: str, role: str) -> list[Turn]:
    """The turns of a dialogue as text; one turn of `role` where it is none."""
    if not _SPOKEN.match(text):
        return [Turn(role, text)]
    _, *parts = _SPOKEN.split(text)
    spoken = zip(parts[::2], parts[1::2], strict=True)
    return [Turn("user" if who == "Human" else "assistant", said.strip()) for who, said in spoken]
