"""Which tokens are in which batch: windows of a token sequence, as a pure function of (seed, epoch, batch
number).

Shapes: B rows, T window length. Window w of an epoch holds tokens [offset + w T, offset + (w + 1) T] (T + 1
of them: T inputs, and the same shifted by one as labels).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmcli.data.shards import TokenShards
from llmcli.losses import IGNORED
from llmcli.seeds import mix

Batch = dict[str, Any]


class Plan(ABC):
    """An epoch's batches, each computed on its own."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, epoch: int, number: int) -> Batch:
        """Batch `number` of `epoch`: ids (B, T), labels (B, T) int64, n_tokens (labels that are scored),
        index; mask (B, T) bool only where something is padding; reset where the rows continue those of the
        batch before; segment_ids (B, T) int64, the document of each token, where a model must not look into others.
        """


class TrainingWindows(Plan):
    """B windows a batch, shuffled anew every epoch, or continuing as B parallel streams (`contiguous`).

    Windows begin at an offset drawn for each epoch, so that the cuts fall elsewhere. What does not fill a
    group of batches (an optimizer step) of every rank is left out: fewer than B T group world tokens, others each
    epoch. apart: with segment_ids.
    """

    def __init__(
        self,
        tokens: TokenShards,
        *,
        size: int,
        seq_len: int,
        seed: int,
        contiguous: bool,
        group: int = 1,
        rank: int = 0,
        world: int = 1,
        apart: bool = False,
    ) -> None:
        self._ends = tokens.document_ends if apart else None
        self.tokens, self.size, self.seq_len, self.seed = tokens, size, seq_len, seed
        self.contiguous, self.rank, self.world = contiguous, rank, world
        self._length = (len(tokens) - 1) // (seq_len * size * group * world) * group
        self._starts: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self._length

    def batch(self, epoch: int, number: int) -> Batch:
        if self._starts is None or self._starts[0] != epoch:
            self._starts = epoch, self._epoch_starts(epoch)
        first = (number * self.world + self.rank) * self.size
        starts = self._starts[1][first : first + self.size]
        windows = self.tokens.gather(starts, self.seq_len + 1)
        batch: Batch = {
            "ids": torch.from_numpy(windows[:, :-1].astype(np.int64)),
            "labels": torch.from_numpy(windows[:, 1:].astype(np.int64)),
            "n_tokens": self.size * self.seq_len,
            "index": epoch * self._length + number,
        }
        if self.contiguous:
            batch["reset"] = number == 0
        if self._ends is not None:
            batch["segment_ids"] = documents(self._ends, starts, self.seq_len)
        return batch

    def _epoch_starts(self, epoch: int) -> NDArray[np.int64]:
        """Where each window of the epoch begins, in the order of use."""
        generator = torch.Generator().manual_seed(mix(self.seed, "windows", epoch))
        rows = self.size * self.world
        used = self._length * rows
        slack = len(self.tokens) - 1 - used * self.seq_len
        offset = int(torch.randint(min(self.seq_len, slack + 1), (), generator=generator))
        if self.contiguous:
            # stream s is windows [s L, (s + 1) L); batch k takes the k-th of each stream
            order = np.arange(used).reshape(rows, self._length).T.ravel()
        else:
            available = (len(self.tokens) - 1 - offset) // self.seq_len
            order = torch.randperm(available, generator=generator)[:used].numpy()
        return offset + order * self.seq_len


class EvaluationWindows(Plan):
    """Every label once, in windows that each start `stride` tokens after the one before.

    With stride < T a window repeats T - stride tokens as context and scores only its last `stride` labels, so
    each token is predicted from at least T - stride others (but for the first window). apart: with segment_ids.
    """

    def __init__(
        self,
        tokens: TokenShards,
        *,
        size: int,
        seq_len: int,
        stride: int,
        pad_id: int,
        rank: int = 0,
        world: int = 1,
        apart: bool = False,
    ) -> None:
        self.tokens, self.size, self.seq_len, self.stride, self.pad_id = tokens, size, seq_len, stride, pad_id
        self._ends = tokens.document_ends if apart else None
        labels = len(tokens) - 1
        total = 1 + max(0, -(-(labels - seq_len) // stride))
        self._windows = np.arange(rank, total, world)

    def __len__(self) -> int:
        return -(-len(self._windows) // self.size)

    def batch(self, epoch: int, number: int) -> Batch:
        windows = self._windows[number * self.size : (number + 1) * self.size]
        starts = windows * self.stride
        rest = len(self.tokens) - 1 - starts  # labels from each start to the end of the text
        skip = np.where(windows > 0, self.seq_len - self.stride, 0)
        lengths = np.minimum(rest, self.seq_len)
        batch = _padded(self.tokens, starts, lengths, skip, self.seq_len, self.pad_id, number)
        if self._ends is not None:
            batch["segment_ids"] = documents(self._ends, starts, self.seq_len)
        return batch


class EvaluationStreams(Plan):
    """Every label once, the text cut into `size` parallel streams whose rows continue from batch to batch."""

    def __init__(
        self,
        tokens: TokenShards,
        *,
        size: int,
        seq_len: int,
        pad_id: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.tokens, self.seq_len, self.pad_id = tokens, seq_len, pad_id
        labels = len(tokens) - 1
        streams = min(size * world, labels)
        bounds = np.arange(streams + 1) * labels // streams
        self._starts, self._stops = bounds[rank:-1:world], bounds[rank + 1 :: world]

    def __len__(self) -> int:
        return -(-int((self._stops - self._starts).max(initial=0)) // self.seq_len)

    def batch(self, epoch: int, number: int) -> Batch:
        starts = self._starts + number * self.seq_len
        lengths = np.clip(self._stops - starts, 0, self.seq_len)
        batch = _padded(self.tokens, starts, lengths, np.zeros_like(starts), self.seq_len, self.pad_id, number)
        batch["reset"] = number == 0
        return batch


class Encoded(Plan):
    """The batches of another plan as a task wants them: `encode` takes a batch and a seed that is new every epoch."""

    def __init__(self, plan: Plan, encode: Callable[[Batch, int], Batch], *, seed: int) -> None:
        self.plan, self.encode, self.seed = plan, encode, seed

    def __len__(self) -> int:
        return len(self.plan)

    def batch(self, epoch: int, number: int) -> Batch:
        return self.encode(self.plan.batch(epoch, number), mix(self.seed, "encode", epoch))


def documents(ends: NDArray[np.uint64], starts: NDArray[np.int64], seq_len: int) -> Tensor:
    """Which document each token of windows from `starts` (B,) is of, counted from the window's first: (B, T) int64.

    ends: the place after the last token of each document.
    """
    places = starts[:, None] + np.arange(seq_len)
    found = np.searchsorted(ends, places.astype(np.uint64), side="right")  # (B, T)
    return torch.from_numpy(found - found[:, :1])


def _padded(
    tokens: TokenShards,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    skip: NDArray[np.int64],
    seq_len: int,
    pad_id: int,
    number: int,
) -> Batch:
    """Rows of `lengths` (B,) inputs from `starts` (B,), of which the first `skip` (B,) labels are context."""
    rows = np.full((len(starts), seq_len + 1), pad_id, np.int64)
    whole = lengths == seq_len
    if whole.any():
        rows[whole] = tokens.gather(starts[whole], seq_len + 1)
    for row in np.flatnonzero(~whole & (lengths > 0)):
        rows[row, : lengths[row] + 1] = tokens.read(int(starts[row]), int(lengths[row]) + 1)
    place = np.arange(seq_len)
    real = place < lengths[:, None]  # (B, T)
    scored = real & (place >= skip[:, None])  # (B, T)
    ids = np.where(real, rows[:, :-1], pad_id)
    labels = np.where(scored, rows[:, 1:], IGNORED)
    batch: Batch = {
        "ids": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "n_tokens": int(scored.sum()),
        "index": number,
    }
    if not whole.all():
        batch["mask"] = torch.from_numpy(real)
    return batch
