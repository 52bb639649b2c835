"""Text that keeps to a rule: one of several choices, a regular expression, a JSON schema, or free of banned words.

A `Constrained` model is the model that says in `StepOutput.allowed` what the rule lets come next, so every strategy
keeps to the rule without knowing it. Which tokens those are is told by llguidance, from the bytes of each.

Shapes: B rows, T time, V vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmcli.decoding.base import GeneratingModel, StepOutput
from llmcli.errors import InputError, require
from llmcli.models.base import State
from llmcli.tokenizers.base import Tokenizer


class Constraint:
    """What a text may be; the prompt is free. One of choices, pattern, schema and banned: what satisfies two of them
    can only be found by looking ahead.

    choices: the whole text is one of them, after a space or not. pattern: a regular expression (that of Rust's regex
    package, without look-around) that the whole text matches. schema: a JSON schema that the text, read as JSON,
    satisfies. banned: what never stands in the text, in this spelling.

    Raises InputError for a rule that cannot be read or satisfied, and for a tokenizer of words, whose text is more than
    that of its ids.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        choices: Sequence[str] | None = None,
        pattern: str | None = None,
        schema: Mapping[str, Any] | None = None,
        banned: Sequence[str] = (),
    ) -> None:
        if sum(rule is not None for rule in (choices, pattern, schema, banned or None)) > 1:
            raise InputError("constraint: choices, pattern, schema and banned exclude each other; give one")
        if choices is not None and (not choices or "" in choices):
            raise InputError(f"constraint.choices ({list(choices)}) must be texts, one at least, none of them empty")
        if "" in banned:
            raise InputError("constraint.banned: an empty text stands everywhere")
        if tokenizer.eos_id is None:
            raise InputError("the run's tokenizer has no id that ends a text, so a rule cannot say where it ends")
        self.pieces = tokenizer.pieces()
        self.end_id = tokenizer.eos_id
        self.banned = Banned(banned, self.pieces)
        self._matcher: Any = None
        if (choices, pattern, schema) != (None, None, None):
            self._matcher = self._compiled(choices, pattern, schema)

    def _compiled(self, choices: Sequence[str] | None, pattern: str | None, schema: Mapping[str, Any] | None) -> Any:
        guidance: Any = require("llguidance", extra="constrained", purpose="constraint.choices, pattern and schema")
        matcher = guidance.LLMatcher
        try:
            if schema is not None:
                # as json.dumps writes it: a model that likes spaces would write them without end
                style = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
                grammar = matcher.grammar_from_json_schema(json.dumps(schema), defaults=style)
            else:
                wanted = pattern if choices is None else f" ?({'|'.join(map(re.escape, choices))})"
                grammar = matcher.grammar_from_regex(wanted)
            vocabulary = guidance.TokenizerWrapper(_Vocabulary(self.pieces, self.end_id))
            found = matcher(guidance.LLTokenizer(vocabulary), grammar)
        except ValueError as err:
            raise _unreadable(str(err)) from err
        if found.is_error():
            raise _unreadable(found.get_error())
        if not found.is_accepting() and _tokens(found, len(self.pieces)).nonzero()[0].tolist() in ([], [self.end_id]):
            raise _unreadable("nothing satisfies it")
        return found

    def writer(self) -> Writer:
        """For a text that has not begun."""
        return Writer(self, self._matcher.deep_copy() if self._matcher is not None else None)


class Banned:
    """Which tokens would complete a banned text after the bytes written so far: exact, however it is cut."""

    def __init__(self, texts: Sequence[str], pieces: Sequence[bytes]) -> None:
        self.rest: dict[tuple[bytes, bytes], NDArray[np.bool_]] = {}  # (beginning, rest) -> tokens that begin with it
        self.inside = np.zeros(len(pieces), bool)  # tokens that hold one
        self.reach = max((len(text.encode()) for text in texts), default=1) - 1
        for text in map(str.encode, texts):
            self.inside |= np.array([text in piece for piece in pieces])
            for cut in range(1, len(text)):
                begun, rest = text[:cut], text[cut:]
                self.rest[begun, rest] = np.array([piece.startswith(rest) for piece in pieces])

    def after(self, written: bytes) -> NDArray[np.bool_]:
        """written: the last `reach` bytes, or all there are -> (V,)."""
        found = self.inside.copy()
        for (begun, _), tokens in self.rest.items():
            if written.endswith(begun):
                found |= tokens
        return found


class Writer:
    """How far one row has come."""

    def __init__(self, constraint: Constraint, matcher: Any, written: bytes = b"") -> None:
        self.constraint, self.matcher, self.written = constraint, matcher, written

    def allowed(self) -> NDArray[np.bool_]:
        """(V,): the tokens that may come next; the end where nothing else may."""
        found = ~self.constraint.banned.after(self.written)
        if self.matcher is not None:
            if self.matcher.is_stopped():
                found[:] = False
            else:
                found &= _tokens(self.matcher, len(found))
                found[self.constraint.end_id] &= self.matcher.is_accepting()
                if not found.any():
                    raise InputError(
                        "the run's vocabulary lacks what the constraint asks for next",
                        "its tokenizer was trained on other text; tokenizer=bpe and byte can spell everything",
                    )
        if not found.any():
            found[self.constraint.end_id] = True
        return found

    def take(self, number: int) -> None:
        if self.matcher is not None and not self.matcher.is_stopped():
            self.matcher.try_consume_tokens([number])
        reach = self.constraint.banned.reach
        self.written = (self.written + self.constraint.pieces[number])[-reach:] if reach else b""

    def copy(self) -> Self:
        matcher = self.matcher.deep_copy() if self.matcher is not None else None
        return type(self)(self.constraint, matcher, self.written)


class Constrained:
    """The model, with what the constraint allows next beside its logits. Its first step reads the prompts.

    A text must fit the model's window: read anew, a rule would begin again.
    """

    def __init__(self, model: GeneratingModel, constraint: Constraint) -> None:
        self.model, self.constraint = model, constraint
        self.vocab_size, self.max_seq_len = model.vocab_size, model.max_seq_len

    @property
    def device(self) -> torch.device:
        return self.model.device

    def init_state(self, batch_size: int, capacity: int) -> WritersState:
        writers = [self.constraint.writer() for _ in range(batch_size)]
        return WritersState(self.model.init_state(batch_size, capacity), writers, begun=False)

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None, *, last_only: bool = False) -> StepOutput:
        """As the model's, one token at a time after the prompts."""
        assert isinstance(state, WritersState)
        if state.begun:
            if ids.size(1) != 1:
                raise ValueError("a constrained text is written one token at a time")
            for writer, number in zip(state.writers, ids[:, 0].tolist(), strict=True):
                writer.take(number)
        out = self.model.step(ids, state.inner, lengths, last_only=last_only)
        allowed = torch.from_numpy(np.stack([writer.allowed() for writer in state.writers])).to(out.logits.device)
        return replace(out, state=WritersState(out.state, state.writers, begun=True), allowed=allowed)


class WritersState(State):
    """The model's state and how far each row's text has come. begun: whether the prompts have been read."""

    def __init__(self, inner: State, writers: list[Writer], *, begun: bool) -> None:
        self.inner, self.writers, self.begun = inner, writers, begun

    @property
    def lengths(self) -> Tensor:  # type: ignore[override]
        return self.inner.lengths

    def reorder(self, index: Tensor) -> Self:
        writers = [self.writers[row].copy() for row in index.tolist()]
        return type(self)(self.inner.reorder(index), writers, begun=self.begun)

    def truncate(self, lengths: Tensor) -> Self:
        raise ValueError("a constrained text is not taken back")

    def clone(self) -> Self:
        return type(self)(self.inner.clone(), [writer.copy() for writer in self.writers], begun=self.begun)

    def detach(self) -> Self:
        return type(self)(self.inner.detach(), self.writers, begun=self.begun)


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, pieces: Sequence[bytes], end_id: int) -> None:
        self.eos_token_id = end_id
        self.tokens = [piece or f"<special {index}>".encode() for index, piece in enumerate(pieces)]
        self.special_token_ids = [index for index, piece in enumerate(pieces) if not piece]
        self._ids = {piece: index for index, piece in enumerate(pieces) if piece}
        self._longest = max(map(len, pieces))

    def __call__(self, text: bytes | str) -> list[int]:
        """The longest pieces first: where a rule leaves one text alone, llguidance lets its first token come.

        Raises ValueError for bytes that no piece has.
        """
        data = text.encode() if isinstance(text, str) else text
        ids, start = [], 0
        while start < len(data):
            ends = range(min(len(data), start + self._longest), start, -1)
            end = next((end for end in ends if data[start:end] in self._ids), None)
            if end is None:
                raise ValueError(f"the vocabulary has nothing for {data[start:][:20]!r}")
            ids.append(self._ids[data[start:end]])
            start = end
        return ids


def _tokens(matcher: Any, vocab_size: int) -> NDArray[np.bool_]:
    """(V,): the tokens that the rule allows next."""
    found: NDArray[np.bool_] = np.frombuffer(matcher.compute_logit_bias(), np.uint8)[:vocab_size] != 0
    return found


def _unreadable(reason: str) -> InputError:
    # the first line names the pattern, a later one what is wrong with it
    first, *rest = reason.strip().splitlines() or ["unknown"]
    wrong = next((line.strip() for line in rest if line.startswith("error:")), "")
    return InputError(f"the constraint cannot be used: {first} {wrong}".rstrip())
