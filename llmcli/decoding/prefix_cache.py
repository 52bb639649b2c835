"""A model that keeps what it has read, so that a prompt that begins as the last one did costs only the rest.

Shapes: T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from llmcli.decoding.base import GeneratingModel, StepOutput
from llmcli.models.base import State

UNLIMITED = 65_536  # tokens that are remembered of a model without a window


class PrefixCache:
    """A `GeneratingModel` that is another one and remembers one row: its prompt, and what was written after it.

    capacity: the longest row in tokens that is remembered, for which one state at a time has room. Several rows are
    served, and not remembered. reused: how many tokens of the last prompt were not read again.
    """

    def __init__(self, model: GeneratingModel, *, capacity: int) -> None:
        self._model, self._capacity = model, capacity
        self.vocab_size, self.max_seq_len = model.vocab_size, model.max_seq_len
        self.reused = 0
        self._last: Remembered | None = None

    @property
    def device(self) -> torch.device:
        return self._model.device

    def init_state(self, batch_size: int, capacity: int) -> State:
        if batch_size != 1 or capacity > self._capacity:
            return self._model.init_state(batch_size, capacity)
        return Remembered(None, [])  # a state is made when it is known that no other goes on

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None, *, last_only: bool = False) -> StepOutput:
        """As of the model. What is read again of a prompt has no logits, which only `last_only` does without."""
        if not isinstance(state, Remembered):
            return self._model.step(ids, state, lengths, last_only=last_only)
        last, self._last = self._last, None  # nothing is remembered should the step be broken off
        inner, read = state.inner, state.ids
        if inner is None:
            if last is not None and last_only and lengths is None:
                inner, read = last.back_to(ids[0].tolist())
            self.reused, last = len(read or ()), None
            ids = ids[:, self.reused :]
            if inner is None:
                inner = self._model.init_state(1, self._capacity)
        out = self._model.step(ids, inner, lengths, last_only=last_only)
        if read is None or lengths is not None:
            return replace(out, state=Remembered(out.state, None))
        self._last = Remembered(out.state, [*read, *ids[0].tolist()])
        return replace(out, state=self._last)


class Remembered(State):
    """A state of the model, None before anything is read, and the ids that it has read; None: of rows that are not
    remembered."""

    def __init__(self, inner: State | None, ids: list[int] | None) -> None:
        self.inner, self.ids = inner, ids

    def back_to(self, text: Sequence[int]) -> tuple[State | None, list[int]]:
        """After as many of these ids as it began with, less the last, which is read for what comes next; nothing and
        none where it cannot go back so far."""
        read = self.ids or []
        most = min(len(read), len(text) - 1)
        shared = next((place for place in range(most) if read[place] != text[place]), most)
        if self.inner is None or not shared:
            return None, []
        if shared == len(read):
            return self.inner, read
        try:
            return self.inner.truncate(torch.tensor([shared])), read[:shared]
        except ValueError:  # a recurrent one
            return None, []

    @property
    def lengths(self) -> Tensor:  # type: ignore[override]
        return self._read().lengths

    def reorder(self, index: Tensor) -> Self:
        return type(self)(self._read().reorder(index), None)

    def truncate(self, lengths: Tensor) -> Self:
        ids = None if self.ids is None else self.ids[: int(lengths)]
        return type(self)(self._read().truncate(lengths), ids)

    def clone(self) -> Self:
        return type(self)(self._read().clone(), self.ids)

    def detach(self) -> Self:
        return type(self)(self._read().detach(), self.ids)

    def _read(self) -> State:
        assert self.inner is not None, "something has been read"
        return self.inner
