"""A model without a network: its logits are a fixed random function of the last tokens it was given.

Shapes: B batch, T time, V vocabulary.
"""

import torch
from torch import Tensor

from llmcli.decoding.base import StepOutput
from llmcli.decoding.penalties import Penalties
from llmcli.models.base import State


def penalties(repetition: float = 1.0) -> Penalties:
    return Penalties(repetition=repetition, frequency=0.0, presence=0.0, no_repeat_ngram=0)


class ToyState(State):
    def __init__(self, rows: list[list[int]], capacity: int) -> None:
        self.rows = rows
        self.capacity = capacity

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([len(row) for row in self.rows])

    def reorder(self, index):
        return ToyState([list(self.rows[i]) for i in index.tolist()], self.capacity)

    def truncate(self, lengths):
        return ToyState([row[:n] for row, n in zip(self.rows, lengths.tolist(), strict=True)], self.capacity)

    def clone(self):
        return ToyState([list(row) for row in self.rows], self.capacity)

    def detach(self):
        return self


class ToyModel:
    """Logits depend on the position, the last two tokens and the first of the context, so a wrong window shows."""

    def __init__(self, vocab_size: int = 11, max_seq_len: int | None = None, seed: int = 0) -> None:
        self.vocab_size = vocab_size
        self.max_seq_len = max_seq_len
        self.device = torch.device("cpu")
        self.calls: list[tuple[int, int]] = []  # (B, T) of every step
        self.ended_at: int | None = None
        generator = torch.Generator().manual_seed(seed)
        self.tables = torch.randn(4, 97, vocab_size, generator=generator)

    def logits(self, context: list[int]) -> Tensor:
        """(V,) for the token after `context`."""
        assert self.max_seq_len is None or len(context) <= self.max_seq_len
        before = context[-2] % 96 if len(context) > 1 else 96
        places = (context[-1] % 97, before, context[0] % 97, len(context) % 97)
        return sum(table[place] for table, place in zip(self.tables, places, strict=True))

    def init_state(self, batch_size, capacity):
        return ToyState([[] for _ in range(batch_size)], capacity)

    def step(self, ids, state, lengths=None, *, last_only=False):
        assert last_only or ids.shape[1] > 1  # all logits only where there is something to check
        self.calls.append(tuple(ids.shape))
        counts = [ids.shape[1]] * len(ids) if lengths is None else lengths.tolist()
        rows = [old + new[:n] for old, new, n in zip(state.rows, ids.tolist(), counts, strict=True)]
        assert all(len(row) <= state.capacity for row in rows)
        if last_only:
            nothing = torch.full((self.vocab_size,), torch.nan)
            logits = torch.stack([self.logits(row) if row else nothing for row in rows])[:, None]  # (B, 1, V)
        else:
            logits = torch.full((*ids.shape, self.vocab_size), torch.nan)  # of padding
            for number, (old, n) in enumerate(zip(state.rows, counts, strict=True)):
                for place in range(n):
                    logits[number, place] = self.logits(rows[number][: len(old) + place + 1])
        return StepOutput(logits, torch.zeros(len(rows), 1, 1), None, ToyState(rows, state.capacity))
