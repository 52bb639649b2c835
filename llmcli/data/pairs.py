"""Words and the words around them: what skip-gram and CBOW learn from, as a pure function of (seed, epoch, number).

A batch of windows of text (`llmcli.data.windows`) loses its special ids and, at random, most of its frequent words;
what is left is one row of words, cut into blocks of `BLOCK` centres. The words around the centres of a block are the
block itself and W words on either side, so that all pairs of a block are one small matrix product, and its centres
share their negative words. That is what makes it fast: each word is looked up about once, not once a pair.

Shapes: G blocks, C centres of a block, W window, S = C + 2 W words around them, N negative words of a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from llmcli.data.shards import TokenShards
from llmcli.data.windows import Batch, Plan
from llmcli.seeds import mix

BLOCK = 32  # centres; more waste products of words that are no pair, fewer look the edges up more often
COUNTED_AT_ONCE = 1 << 24  # tokens


def word_counts(tokens: TokenShards, vocab_size: int, reserved: int) -> NDArray[np.int64]:
    """How often each id occurs, (V,); the first `reserved` ids are no words and count 0."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(tokens), COUNTED_AT_ONCE):
        part = tokens.read(start, min(COUNTED_AT_ONCE, len(tokens) - start))
        counts += np.bincount(part, minlength=vocab_size)
    counts[:reserved] = 0
    return counts


def keep_probability(counts: NDArray[np.int64], subsample: float) -> NDArray[np.float64]:
    """With which probability an occurrence of each word stays in the text, (V,); 0 for an id that never occurs.

    sqrt(t / f) + t / f for a share f of all words and the threshold t, at most 1, as in word2vec.c (Mikolov et al.
    2013b print 1 - sqrt(t / f) for what is dropped). subsample 0 keeps everything.
    """
    if subsample == 0:
        return (counts > 0).astype(np.float64)
    share = np.maximum(counts, 1) / max(1, counts.sum())
    ratio = subsample / share
    return np.where(counts > 0, np.minimum(1.0, np.sqrt(ratio) + ratio), 0.0)


class WordBlocks(Plan):
    """Blocks of centres with the words around them and shared negative words, one batch for each of `windows`.

    counts (V,): how often each word occurs in the training text. boundary: the id between documents, over which no
    pair reaches. window: words on either side at most; each centre draws its own reach from 1 to it. negatives: words
    drawn for each pair, in proportion to counts ** ns_exponent; the `shared` ones of a block stand for them, with a
    weight that makes up for their number.

    A batch is {centres (G, C), words (G, S + N): those around and the negatives, near (G, C, S) bool: the pairs, of
    which the centre itself is none, negative_weight, pairs, predicted: centres with a pair, n_tokens, index}.
    """

    def __init__(
        self,
        windows: Plan,
        *,
        counts: NDArray[np.int64],
        boundary: int | None,
        window: int,
        subsample: float,
        negatives: int,
        shared: int,
        ns_exponent: float,
        seed: int,
    ) -> None:
        self.windows, self.boundary, self.window, self.seed = windows, boundary, window, seed
        self.negatives, self.shared = negatives, shared
        self._keep = keep_probability(counts, subsample).astype(np.float32)
        noise = np.where(counts > 0, counts.astype(np.float64) ** ns_exponent, 0.0).cumsum()
        self._noise = noise / noise[-1]
        offset = np.arange(BLOCK + 2 * window) - window
        self._distance = np.abs(np.arange(BLOCK)[:, None] - offset)[None]  # (1, C, S)
        self._distance[self._distance == 0] = window + 1  # a word is not its own neighbour

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, epoch: int, number: int) -> Batch:
        source = self.windows.batch(epoch, number)
        generator = np.random.default_rng(mix(self.seed, "pairs", epoch, source["index"]))
        ids, document = self._kept(source, generator)
        reach = generator.integers(1, self.window + 1, len(ids), dtype=np.int8)
        edge, blocks = self.window, max(1, -(-len(ids) // BLOCK))
        padding = (edge, blocks * BLOCK - len(ids) + edge)
        ids = np.pad(ids, padding)
        document = np.pad(document, padding, constant_values=-1)
        reach = np.pad(reach, (0, blocks * BLOCK - len(reach))).reshape(blocks, BLOCK)
        around = sliding_window_view(ids, BLOCK + 2 * edge)[::BLOCK]  # (G, S)
        where = sliding_window_view(document, BLOCK + 2 * edge)[::BLOCK]
        near = (self._distance <= reach[:, :, None]) & (where[:, edge:-edge, None] == where[:, None, :])  # (G, C, S)
        negatives = self._noise.searchsorted(generator.random((blocks, self.shared)), side="right")
        return {
            "centres": torch.from_numpy(around[:, edge:-edge].copy()),
            "words": torch.from_numpy(np.concatenate((around, negatives), 1)),
            "near": torch.from_numpy(near),
            "negative_weight": self.negatives / self.shared,
            "pairs": int(near.sum()),
            "predicted": int(near.any(-1).sum()),
            "n_tokens": source["n_tokens"],
            "index": source["index"],
        }

    def _kept(self, source: dict[str, Any], generator: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """The words that stay, one window after the other, and the number of each one's document, both (n,)."""
        ids = source["ids"].numpy()
        begins = np.zeros(ids.shape, bool) if self.boundary is None else ids == self.boundary
        begins[:, 0] = True  # another window is another place of the text
        chosen = generator.random(ids.shape, np.float32) < self._keep[ids]
        if "mask" in source:
            chosen &= source["mask"].numpy()
        return ids[chosen], begins.ravel().cumsum(dtype=np.int32)[chosen.ravel()]
