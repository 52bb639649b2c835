"""Which examples an epoch shows and which of them are a batch, as pure functions of (seed, epoch).

An `Order` says which examples an epoch shows, some perhaps several times. `TrainingBatches` and `EvaluationBatches` cut
them into batches, of which any is found in O(1) once its epoch has been ordered. An example is one row of a batch, or
several.

Shapes: E examples, N numbers of examples that an epoch shows, G groups of examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from llmcli.seeds import mix

Numbers = NDArray[np.int64]


class Order(ABC):
    """The numbers of the examples that each epoch shows, as many in every epoch."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def numbers(self, epoch: int) -> Numbers:
        """(N,), in an order drawn for the epoch."""


class Shuffled(Order):
    """Every example of `given` (N,) once."""

    def __init__(self, given: Numbers, *, seed: int) -> None:
        self.given, self.seed = given, seed

    def __len__(self) -> int:
        return len(self.given)

    def numbers(self, epoch: int) -> Numbers:
        return _generator(self.seed, epoch).permutation(self.given)


class Balanced(Order):
    """Exactly `each` examples of every group: the largest group's size over-samples, the smallest's under-samples.

    All members of a group are shown equally often, but for a rest that is drawn anew for every epoch.
    """

    def __init__(self, given: Numbers, groups: Numbers, *, each: int, seed: int) -> None:
        """given (N,), groups (N,): what belongs together has the same number."""
        order = groups.argsort(kind="stable")
        _, starts = np.unique(groups[order], return_index=True)
        self.members = np.split(given[order], starts[1:])
        self.each, self.seed = each, seed

    def __len__(self) -> int:
        return self.each * len(self.members)

    def numbers(self, epoch: int) -> Numbers:
        generator = _generator(self.seed, epoch)
        shown = []
        for members in self.members:
            whole, rest = divmod(self.each, len(members))
            shown += [np.tile(members, whole), generator.choice(members, rest, replace=False)]
        return generator.permutation(np.concatenate(shown))


class Weighted(Order):
    """As many examples as there are, each in proportion to its weight: N w / sum(w) times, rounded up or down.

    Systematic resampling (Kitagawa 1996): which are rounded up is drawn anew for every epoch.
    """

    def __init__(self, given: Numbers, weights: NDArray[np.float64], *, seed: int) -> None:
        """given (N,), weights (N,): at least 0 and not all 0."""
        self.given, self.weights, self.seed = given, weights, seed

    def __len__(self) -> int:
        return len(self.given)

    def numbers(self, epoch: int) -> Numbers:
        generator = _generator(self.seed, epoch)
        order = generator.permutation(np.flatnonzero(self.weights))
        ends = self.weights[order].cumsum()
        marks = (generator.random() + np.arange(len(self))) * (ends[-1] / len(self))
        places = np.minimum(np.searchsorted(ends, marks, side="right"), len(order) - 1)
        return generator.permutation(self.given[order[places]])


class Batches(ABC):
    """The numbers of the examples of each batch of one rank."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def numbers(self, epoch: int, number: int) -> tuple[Numbers, Numbers]:
        """Those of batch `number`, (B,), and of each which of its showings in the epoch this is, from 0."""


class TrainingBatches(Batches):
    """Batches of at most `size` rows and, with `max_tokens`, at most so many tokens together with their padding.

    lengths (E,): tokens of each example's longest row. rows (E,): how many it has, which stay together even where they
    are more than a batch should have; None: one each. pool: so many batches are sorted by length together before they
    are cut, and shuffled after, so that little is padding; 1: as they come. An epoch has the same number of batches for
    every rank, a whole number of groups (optimizer steps); what is left over is drawn anew for every epoch: fewer than
    group * world batches.
    """

    def __init__(
        self,
        order: Order,
        lengths: Numbers,
        rows: Numbers | None = None,
        *,
        size: int,
        max_tokens: int | None,
        pool: int,
        seed: int,
        group: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.order, self.lengths = order, lengths
        self.rows = np.ones_like(lengths) if rows is None else rows
        self.size, self.max_tokens, self.pool, self.seed = size, max_tokens, pool, seed
        self.rank, self.world = rank, world
        self._epoch: tuple[int, Numbers, Numbers, Numbers] | None = None
        self._length = len(self._cut(0)[1]) // (group * world) * group

    def __len__(self) -> int:
        return self._length

    def numbers(self, epoch: int, number: int) -> tuple[Numbers, Numbers]:
        if self._epoch is None or self._epoch[0] != epoch:
            numbers, bounds = self._cut(epoch)
            bounds = _generator(self.seed, epoch, "batches").permutation(_of_count(bounds, self._length * self.world))
            self._epoch = epoch, numbers, _showings(numbers), bounds
        _, numbers, showings, bounds = self._epoch
        start, stop = bounds[number * self.world + self.rank]
        return numbers[start:stop], showings[start:stop]

    def _cut(self, epoch: int) -> tuple[Numbers, Numbers]:
        """The numbers of all ranks (N,) and where their batches begin and end (batches, 2)."""
        numbers = self.order.numbers(epoch)
        if self.pool > 1:
            pools = np.arange(len(numbers)) // (self.pool * self.size)
            numbers = numbers[np.lexsort((self.lengths[numbers], pools))]
        return numbers, _cut(self.lengths[numbers], self.rows[numbers], self.size, self.max_tokens)


class EvaluationBatches(Batches):
    """Every example once, those of a batch of similar length, batches in a fixed order that is not that of the lengths.

    So the first few batches are a sample of all. Ranks share the batches; they may differ in number by one. None
    is left without where there are as many examples as ranks.
    """

    def __init__(
        self,
        lengths: Numbers,
        rows: Numbers | None = None,
        *,
        size: int,
        max_tokens: int | None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        generator = _generator(0, 0)
        numbers = generator.permutation(len(lengths))  # so that a batch is no run of one label
        self._numbers = numbers[lengths[numbers].argsort(kind="stable")]
        rows = np.ones_like(lengths) if rows is None else rows
        bounds = _of_count(_cut(lengths[self._numbers], rows[self._numbers], size, max_tokens), world)
        self._bounds = generator.permutation(bounds)[rank::world]

    def __len__(self) -> int:
        return len(self._bounds)

    def numbers(self, epoch: int, number: int) -> tuple[Numbers, Numbers]:
        start, stop = self._bounds[number]
        numbers = self._numbers[start:stop]
        return numbers, np.zeros_like(numbers)


def _generator(*parts: object) -> np.random.Generator:
    return np.random.default_rng(mix("examples", *parts))


def _cut(lengths: Numbers, rows: Numbers, size: int, max_tokens: int | None) -> Numbers:
    """Where batches of consecutive examples with the lengths and rows (N,) begin and end: (batches, 2)."""
    if max_tokens is None and (rows == 1).all():
        starts = np.arange(0, len(lengths), size)
    else:
        most = np.inf if max_tokens is None else max_tokens
        found, held, longest = [0], 0, 0
        for place, (length, more) in enumerate(zip(lengths.tolist(), rows.tolist(), strict=True)):
            held, longest = held + more, max(longest, length)
            if place > found[-1] and (held > size or held * longest > most):
                found.append(place)
                held, longest = more, length
        starts = np.array(found)
    return np.stack((starts, np.append(starts[1:], len(lengths))), 1)


def _showings(numbers: Numbers) -> Numbers:
    """How often each of the numbers (N,) stands before its place."""
    order = numbers.argsort(kind="stable")
    ordered = numbers[order]
    showings = np.empty_like(numbers)
    showings[order] = np.arange(len(numbers)) - np.searchsorted(ordered, ordered)
    return showings


def _of_count(bounds: Numbers, count: int) -> Numbers:
    """`count` batches of (batches, 2): the largest are cut in two where some are missing."""
    while len(bounds) < count:  # other examples than in the first epoch may fill fewer, a few not one for each rank
        largest = int((bounds[:, 1] - bounds[:, 0]).argmax())
        start, stop = bounds[largest]
        middle = (start + stop) // 2
        bounds = np.concatenate((bounds, [[middle, stop]]))
        bounds[largest] = start, middle
    return bounds
