"""Conversations as ids: where a template puts the ids of each turn, and which of them the assistant says.

Shapes: N ids of a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcli.data.chat_template import KEY, ChatTemplate, Piece
from llmcli.errors import InputError
from llmcli.tokenizers.base import RESERVED, Tokenizer

Ids = NDArray[Any]
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


@dataclass(frozen=True)
class Part:
    """Ids that the template writes itself, or with `turn` the place for those of a turn's text."""

    ids: tuple[int, ...]
    turn: int | None
    said: bool


class Layout:
    """What a template makes of some roles. Of a conversation that is learned nothing stands after what is said last."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)

    @cached_property
    def fixed(self) -> int:
        """Ids that do not come from the texts."""
        return sum(len(part.ids) for part in self.parts)

    def fill(self, texts: Sequence[Ids]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The ids of the texts in their places -> all ids (N,), and which of them the assistant says (N,)."""
        found = [np.asarray(part.ids if part.turn is None else texts[part.turn], np.int64) for part in self.parts]
        said = np.repeat([part.said for part in self.parts], list(map(len, found)))
        return np.concatenate(found), said


class Turns:
    """A template for the ids of one tokenizer. Each text and each piece of the template is a number of ids of its own,
    so that no token reaches over the end of a turn.

    Raises InputError for a template that the vocabulary cannot write, or whose answers do not end.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self.template, self.tokenizer = template, tokenizer
        self._layouts: dict[tuple[tuple[str, ...], bool], Layout] = {}
        self.layout((USER, ASSISTANT))

    def layout(self, roles: Sequence[str], *, answer_next: bool = False) -> Layout:
        """Of turns with these roles, which must take turns. answer_next: up to where the answer begins, else to the end
        of the last answer.

        Raises InputError for roles out of order, and for a template that fails or would not teach what it asks for.
        """
        key = tuple(roles), answer_next
        if key not in self._layouts:
            check_roles(roles, last=USER if answer_next else ASSISTANT)
            pieces = self.template.pieces(roles, answer_next=answer_next)
            self._layouts[key] = Layout(self._parts(pieces)) if answer_next else self._learned(roles, pieces)
        return self._layouts[key]

    def prompt(self, roles: Sequence[str], texts: Sequence[Ids | list[int]]) -> list[int]:
        """The ids after which the assistant's answer to these turns begins."""
        ids: list[int] = (
            self.layout(roles, answer_next=True).fill([np.asarray(text, np.int64) for text in texts])[0].tolist()
        )
        return ids

    def _learned(self, roles: Sequence[str], pieces: Sequence[Piece]) -> Layout:
        for piece in pieces:
            if piece.turn is not None and piece.said != (roles[piece.turn] == ASSISTANT):
                raise InputError(
                    f"{KEY} has the text of turn {piece.turn + 1}, the {roles[piece.turn]}'s, "
                    f"{'inside' if piece.said else 'outside'} {{% generation %}}",
                    "what stands between {% generation %} and {% endgeneration %} is what the assistant says",
                )
        last = max(place for place, piece in enumerate(pieces) if piece.said)
        parts = self._parts(pieces[: last + 1])
        begin = next(place for place, part in enumerate(parts) if part.turn == len(roles) - 1)
        if self.tokenizer.eos_id not in [index for part in parts[begin:] for index in part.ids]:
            raise InputError(
                f"{KEY} lets no answer end", "{{ eos_token }} must stand after its text, before {% endgeneration %}"
            )
        while begin and parts[begin - 1].said:
            begin -= 1
        if _written(parts[:begin]) != _written(self.layout(roles[:-1], answer_next=True).parts):
            raise InputError(
                f"{KEY} asks for an answer with other words than stand before one",
                "what it adds for add_generation_prompt must be what it writes before {% generation %}",
            )
        return Layout(parts)

    def _parts(self, pieces: Sequence[Piece]) -> list[Part]:
        return [Part(self._ids(piece), piece.turn, piece.said) for piece in pieces]

    def _ids(self, piece: Piece) -> tuple[int, ...]:
        if piece.special is not None:
            name = RESERVED[piece.special]
            if self.tokenizer.token(piece.special) != name:
                raise InputError(
                    f"{KEY} needs the id {name}, which this tokenizer has not", "template=plain needs <eos> alone"
                )
            return (piece.special,)
        if unknown := self.tokenizer.unknown(piece.text):
            raise InputError(
                f"{KEY} writes what the vocabulary lacks: {', '.join(map(repr, unknown[:5]))}",
                "template=reserved marks turns without words",
            )
        return tuple(self.tokenizer.encode(piece.text))


def check_roles(roles: Sequence[str], *, last: str) -> None:
    """Raises InputError unless user and assistant take turns up to `last`, after the system's text if there is one."""
    begin = int(len(roles) > 0 and roles[0] == SYSTEM)
    for place, role in enumerate(roles[begin:]):
        expected = (USER, ASSISTANT)[place % 2]
        if role != expected:
            raise InputError(f"turn {begin + place + 1} is the {role}'s, and should be the {expected}'s")
    if len(roles) == begin or roles[-1] != last:
        raise InputError(f"the {last} must have the last turn")


def _written(parts: Sequence[Part]) -> list[int]:
    """What stands there, however it is cut into pieces: ids, and numbers below 0 for places."""
    found: list[int] = []
    for part in parts:
        found += part.ids
        if part.turn is not None:
            found.append(-1 - part.turn)
    return found
