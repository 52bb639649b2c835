"""A model that keeps what it has read, so that a prompt that begins as the last one did costs only the rest.

Shapes: T new tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcli.decoding.base import GeneratingModel, StepOutput
from llmcli.models.base import State


class PrefixCache:
    """A `GeneratingModel` that is another one and remembers one row: its prompt, and what was written after it.

    capacity: the longest row in tokens that is remembered. A strategy that reads on from a state of its own (copied, or
    with rows picked) is served, and not remembered. reused: how many tokens of the last prompt were not read again.
    """

    def __init__(self, model: GeneratingModel, *, capacity: int) -> None:
        self._model, self._capacity = model, capacity
        self.vocab_size, self.max_seq_len = model.vocab_size, model.max_seq_len
        self.reused = 0
        self._ids: list[int] = []  # what `_state` has read
        self._state: State | None = None
        self._empty: State | None = None  # given out, and not yet read into

    @property
    def device(self) -> torch.device:
        return self._model.device

    def init_state(self, batch_size: int, capacity: int) -> State:
        if batch_size != 1 or capacity > self._capacity:
            return self._model.init_state(batch_size, capacity)
        self._empty = self._model.init_state(1, self._capacity)
        return self._empty

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None, *, last_only: bool = False) -> StepOutput:
        """As of the model. What is read again of a prompt has no logits, which only `last_only` does without."""
        remembered, kept, self._state = self._ids, self._state, None  # nothing, should the step be broken off
        alone = lengths is None and ids.size(0) == 1
        if alone and last_only and state is self._empty:
            self._ids, self.reused, self._empty = ids[0].tolist(), 0, None
            if (found := _back_to(kept, remembered, _shared(remembered, self._ids))) is not None:
                state, self.reused = found
                ids = ids[:, self.reused :]
        elif alone and state is kept:
            self._ids = remembered + ids[0].tolist()
        else:
            return self._model.step(ids, state, lengths, last_only=last_only)
        out = self._model.step(ids, state, last_only=last_only)
        self._state = out.state
        return out


def _shared(read: list[int], asked: list[int]) -> int:
    """How many ids both begin with, without the last of what is asked: it has to be read for what comes next."""
    most = min(len(read), len(asked) - 1)
    return next((place for place in range(most) if read[place] != asked[place]), most)


def _back_to(state: State | None, read: list[int], length: int) -> tuple[State, int] | None:
    """The state after the first `length` of the ids that it has read; None where it cannot go back so far."""
    if state is None or not length:
        return None
    if length == len(read):
        return state, length
    try:
        return state.truncate(torch.tensor([length])), length
    except ValueError:  # a recurrent one
        return None
