"""A conversation with a run: its turns so far, what of them the model still sees, and the next answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from llmcli.data.records import Turn
from llmcli.data.turns import ASSISTANT, SYSTEM, USER, Turns
from llmcli.decoding.base import Search, Strategy
from llmcli.decoding.generate import generate
from llmcli.decoding.prefix_cache import UNLIMITED, PrefixCache
from llmcli.errors import InputError
from llmcli.tokenizers.base import Tokenizer

ROOM = 4  # an answer gets a quarter of what the model sees, at least, where it may be so long


class StoppedError(Exception):
    """Raised by what is shown an answer: the rest is not wanted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the assistant said.

    finish_reason: "end", "length" where max_new_tokens or the model's window cut it, "stopped" where the listener did.
    tokens: how many it has. forgotten: turns that the model no longer sees since this answer. reused: tokens of the
    prompt that it remembered from the answer before.
    """

    text: str
    finish_reason: str
    tokens: int
    forgotten: int
    reused: int


class Dialogue:
    """Talks with a task that learned from conversations (`task=chat`, `task=preference`).

    system: what the assistant is told before all else. strategy, max_new_tokens, seed: as of `generate`; each answer
    draws other numbers.

    Raises InputError for a task that has no template of conversations.
    """

    def __init__(
        self,
        task: Any,
        tokenizer: Tokenizer,
        *,
        strategy: Strategy | Search,
        max_new_tokens: int,
        seed: int,
        system: str | None = None,
        unknown: str = "error",
    ) -> None:
        if not hasattr(task, "template"):
            raise InputError(f"this is a {type(task).__name__} run, which was not taught to converse")
        self.tokenizer, self.strategy = tokenizer, strategy
        self.max_new_tokens, self.seed, self.unknown = max_new_tokens, seed, unknown
        self.turns: list[Turn] = []
        self._ids: list[list[int]] = []  # of each turn: of answers those that were written
        self._first = 0  # the first turn that the model still sees
        self._layout = Turns(task.template, tokenizer)
        self._window: int | None = task.max_seq_len
        self._model = PrefixCache(task, capacity=self._window or UNLIMITED)
        self._system: str | None = None
        self.system = system

    @property
    def system(self) -> str | None:
        """What the assistant is told before all else; None or nothing: nothing.

        Setting it raises InputError for a text that the vocabulary cannot write or the model cannot hold, and for a
        template that has no place for one; the conversation is then as it was.
        """
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        before, self._system = self._system, text or None
        try:
            length = len(self._rendered(len(self.turns), []))
        except InputError:
            self._system = before
            raise
        if self._window is not None and length > self._window:
            self._system = before
            raise InputError(
                f"the system's text is too long: {length:,} tokens with all that stands around an empty message, and "
                f"the model sees {self._window:,}",
                "say it in fewer words",
            )

    def reset(self) -> None:
        """Forget all turns; the system's text stays."""
        self.turns, self._ids, self._first = [], [], 0

    def record(self) -> dict[str, Any]:
        """The whole conversation as `data=chat` reads it."""
        turns = [*([Turn(SYSTEM, self.system)] if self.system else []), *self.turns]
        return {"messages": [{"role": turn.role, "content": turn.text} for turn in turns]}

    def after(self, turns: Sequence[Turn]) -> Self:
        """This dialogue, going on from turns that were said elsewhere, of which the first may be the system's."""
        for turn in turns:
            if turn.role == SYSTEM:
                self.system = turn.text
            else:
                self._append(turn, self._encode(turn.text))
        return self

    def ask(self, text: str, on_text: Callable[[str], None] | None = None) -> Answer:
        """The answer to a message; both then belong to the conversation. on_text: is shown the answer as it comes, and
        may raise StoppedError.

        Raises InputError for a message that the vocabulary cannot write or the model cannot hold; it then was not said.
        """
        ids = self._encode(text)
        prompt, first = self._prompt(ids)
        room = self.max_new_tokens if self._window is None else self._window + 1 - len(prompt)
        heard: list[str] = []

        def show(row: int, piece: str) -> None:
            heard.append(piece)
            if on_text is not None:
                on_text(piece)

        try:
            with torch.inference_mode():
                [found] = generate(
                    self._model, self.tokenizer, [prompt], strategy=self.strategy,
                    max_new_tokens=min(self.max_new_tokens, room), seed=self.seed + len(self.turns) // 2, on_text=show,
                )  # fmt: skip
            said, reason = found.text, str(found.finish_reason)
            written = found.ids[:-1] if reason == "end" else found.ids
        except StoppedError:
            said, reason = "".join(heard), "stopped"
            written = self.tokenizer.encode(said)
        forgotten, self._first = first - self._first, first
        self._append(Turn(USER, text), ids)
        self._append(Turn(ASSISTANT, said), written)
        return Answer(said, reason, len(written), forgotten, self._model.reused)

    def _append(self, turn: Turn, ids: list[int]) -> None:
        self.turns.append(turn)
        self._ids.append(ids)

    def _prompt(self, ids: list[int]) -> tuple[list[int], int]:
        """What the model reads before it answers, and the first turn of that: the oldest ones that leave no room for an
        answer are left out, question and answer together."""
        for first in range(self._first, len(self.turns) + 1, 2):
            prompt = self._rendered(first, ids)
            if self._window is None or len(prompt) + min(self.max_new_tokens, self._window // ROOM) <= self._window:
                return prompt, first
        if self._window is not None and len(prompt) > self._window:
            raise InputError(
                f"the message is too long: {len(prompt):,} tokens with all that stands around it, and the model sees "
                f"{self._window:,}",
                "say it in fewer words" + (", or shorten the system's text" if self.system else ""),
            )
        return prompt, first

    def _rendered(self, first: int, ids: list[int]) -> list[int]:
        roles = [*(turn.role for turn in self.turns[first:]), USER]
        texts = [*self._ids[first:], ids]
        if self.system:
            roles, texts = [SYSTEM, *roles], [self._encode(self.system), *texts]
        return self._layout.prompt(roles, texts)

    def _encode(self, text: str) -> list[int]:
        if self.unknown == "error" and (missing := self.tokenizer.unknown(text)):
            raise InputError(
                f"the vocabulary lacks {', '.join(map(repr, missing[:10]))}", "write it without, or use unknown=replace"
            )
        return self.tokenizer.encode(text)
