"""How often words stand near each other: counted once for a prepared split, then read in batches of cells.

Words at a distance of d count 1 / d, in both directions (Pennington et al. 2014). Counting keeps the distinct pairs in
memory, 16 bytes each, and never the text; what is counted lies beside the prepared tokens, in an order drawn once, so
that every slice of it is a random sample.

Shapes: B cells of a batch, M cells, P distinct pairs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from llmcli import files
from llmcli.data.shards import TokenShards
from llmcli.data.windows import Batch, Plan
from llmcli.errors import InputError
from llmcli.seeds import mix

CELL = np.dtype([("row", "<u4"), ("column", "<u4"), ("count", "<f4")])
COUNTED_AT_ONCE = 1 << 18  # tokens

Run = tuple[NDArray[np.int64], NDArray[np.float64]]  # sorted distinct keys (P,), their counts (P,)


def cells_of(
    tokens: TokenShards, path: Path, *, vocab_size: int, reserved: int, boundary: int | None, window: int
) -> NDArray[np.void]:
    """The cells (M,) of dtype `CELL`, from `path` where they have been counted before.

    The first `reserved` ids are no words; no pair reaches over a `boundary`. Raises InputError for a text without any.
    """
    if not path.is_file():
        cells = _count(tokens, vocab_size=vocab_size, reserved=reserved, boundary=boundary, window=window)
        files.write_atomic(path, cells.tobytes())
    if path.stat().st_size == 0:
        raise InputError("no two words stand near each other in this text", "use more text")
    return np.memmap(path, CELL, mode="r")


class CellBatches(Plan):
    """B cells a batch, others in every epoch; with seed None all cells in their order, the last batch a short one.

    text_tokens: the length of the text that they were counted in.
    """

    def __init__(
        self,
        cells: NDArray[np.void],
        *,
        size: int,
        text_tokens: int,
        seed: int | None,
        group: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.cells, self.size, self.text_tokens, self.seed = cells, size, text_tokens, seed
        self.rank, self.world = rank, world
        whole = len(cells) // (size * group * world) * group
        self._length = -(-len(cells) // (size * world)) if seed is None else whole
        self._order: tuple[int, int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self._length

    def batch(self, epoch: int, number: int) -> Batch:
        place = number * self.world + self.rank
        if self.seed is None:
            cells = self.cells[place * self.size : (place + 1) * self.size]
        else:
            if self._order is None or self._order[0] != epoch:
                generator = np.random.default_rng(mix(self.seed, "cells", epoch))
                slices = generator.permutation(self._length * self.world)
                self._order = epoch, int(generator.integers(len(self.cells))), slices
            _, offset, slices = self._order
            start = (offset + int(slices[place]) * self.size) % len(self.cells)
            cells = self.cells[start : start + self.size]
            if len(cells) < self.size:  # the slices go round
                cells = np.concatenate((cells, self.cells[: self.size - len(cells)]))
        return {
            "rows": torch.from_numpy(cells["row"].astype(np.int64)),
            "columns": torch.from_numpy(cells["column"].astype(np.int64)),
            "counts": torch.from_numpy(cells["count"].astype(np.float32)),
            "text_tokens": self.text_tokens,
            "n_tokens": len(cells),
            "index": epoch * self._length + number,
        }


def _count(
    tokens: TokenShards, *, vocab_size: int, reserved: int, boundary: int | None, window: int
) -> NDArray[np.void]:
    runs: list[Run] = []
    tail, document = np.zeros((2, 0), np.int64), 0  # the last words before this piece, and their documents
    for start in range(0, len(tokens), COUNTED_AT_ONCE):
        ids = tokens.read(start, min(COUNTED_AT_ONCE, len(tokens) - start)).astype(np.int64)
        documents = document + (ids == boundary).cumsum()
        document = int(documents[-1])
        piece = np.stack((ids, documents))[:, ids >= reserved]
        words = np.concatenate((tail, piece), 1)  # (2, n)
        runs.append(_pairs(words, known=tail.shape[1], vocab_size=vocab_size, window=window))
        while len(runs) > 1 and len(runs[-2][0]) < 2 * len(runs[-1][0]):  # so that each pair is merged seldom
            runs[-2:] = [_merged(runs[-2:])]
        tail = words[:, -window:]
    keys, counts = _merged(runs)
    low, high = keys // vocab_size, keys % vocab_size
    apart = low != high
    cells = np.empty(len(keys) + int(apart.sum()), CELL)
    cells["row"] = np.concatenate((low, high[apart]))
    cells["column"] = np.concatenate((high, low[apart]))
    cells["count"] = np.concatenate((np.where(apart, counts, 2 * counts), counts[apart]))
    np.random.default_rng(mix("cells", len(cells))).shuffle(cells)
    return cells


def _pairs(words: NDArray[np.int64], *, known: int, vocab_size: int, window: int) -> Run:
    """The pairs of words (2, n), ids and documents, of which the second is not among the first `known`."""
    keys, weights = [], []
    for distance in range(1, window + 1):
        second = words[:, max(known, distance) :]
        first = words[:, max(known - distance, 0) :][:, : second.shape[1]]
        together = first[1] == second[1]
        low, high = np.minimum(first[0], second[0])[together], np.maximum(first[0], second[0])[together]
        keys.append(low * vocab_size + high)
        weights.append(np.full(len(low), 1 / distance))
    return _summed(np.concatenate(keys), np.concatenate(weights))


def _merged(runs: list[Run]) -> Run:
    return _summed(np.concatenate([keys for keys, _ in runs]), np.concatenate([counts for _, counts in runs]))


def _summed(keys: NDArray[np.int64], counts: NDArray[np.float64]) -> Run:
    """One entry for each distinct key, in order."""
    if not len(keys):
        return keys, counts
    order = keys.argsort(kind="stable")  # quick where it is made of sorted parts
    keys = keys[order]
    begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[begins], np.add.reduceat(counts[order], begins)
