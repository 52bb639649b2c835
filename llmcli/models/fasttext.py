"""FastText (Bojanowski et al. 2017): word2vec in which a word's vector is made of its parts.

The input vector of a word w is the mean of a vector of its own and of one for each of its character n-grams, those of
`<w>` with its beginning and end marked: `<whe`, `her`, `ere>` of "where". N-grams share a table of `buckets` rows, to
which a hash sends them. So words of the same stem share most of their vectors, and a word that was never seen has one.

Shapes: V vocabulary, D model width, M n-grams of all words together, U distinct words of a batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.models.base import check_sizes
from llmcli.models.word2vec import Objective, Word2Vec


class FastText(Word2Vec):
    """n-grams of `min_n` to `max_n` characters, hashed to `buckets` rows.

    The n-grams of the vocabulary are buffers of the sizes that its words gave them, so a checkpoint stands alone.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        d_model: int,
        objective: Objective,
        min_n: int,
        max_n: int,
        buckets: int,
        sparse: bool,
    ) -> None:
        check_sizes(min_n=min_n, max_n=max_n, buckets=buckets)
        if min_n > max_n:
            raise InputError(f"min_n ({min_n}) must not be above max_n ({max_n})")
        super().__init__(vocab_size=vocab_size, d_model=d_model, objective=objective, sparse=sparse)
        self.min_n, self.max_n, self.buckets = min_n, max_n, buckets
        self.ngram_embedding = nn.Embedding(buckets, d_model, sparse=sparse)
        nn.init.uniform_(self.ngram_embedding.weight, -1 / d_model, 1 / d_model)
        # word i has the n-grams [bounds[i], bounds[i + 1])
        self.register_buffer("bounds", torch.zeros(vocab_size + 1, dtype=torch.int64))
        self.register_buffer("ngrams", torch.zeros(0, dtype=torch.int64))  # (M,)

    def begin(self, *, words: Sequence[str], tokens: int) -> None:
        found = [self.rows(word) for word in words]
        counts = torch.tensor([0, *map(len, found)])
        device = self.input_embedding.weight.device
        self.bounds = counts.cumsum(0).to(device)
        self.ngrams = torch.tensor([row for rows in found for row in rows], dtype=torch.int64, device=device)

    def rows(self, word: str) -> list[int]:
        """Where the n-grams of a word are in the table; none of the empty word."""
        if not word:
            return []
        marked = f"<{word}>"
        return [
            zlib.crc32(marked[start : start + n].encode("utf-8", "surrogatepass")) % self.buckets
            for n in range(self.min_n, min(self.max_n, len(marked)) + 1)
            for start in range(len(marked) - n + 1)
        ]

    def input_vectors(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., D). Each distinct word is put together once."""
        distinct, places = torch.unique(ids, return_inverse=True)  # (U,)
        return F.embedding(places, self._composed(distinct))

    def word_vectors(self) -> Tensor:
        return self._composed(torch.arange(self.vocab_size, device=self.input_embedding.weight.device))

    def outside(self, word: str) -> Tensor | None:
        """The mean over the n-grams alone, None where the word is too short to have any."""
        rows = self.rows(word)
        return self.ngram_embedding.weight[rows].mean(0) if rows else None

    def _composed(self, ids: Tensor) -> Tensor:
        """ids (U,) -> (U, D)."""
        starts, counts = self.bounds[ids], self.bounds[ids + 1] - self.bounds[ids]
        offsets = counts.cumsum(0) - counts  # (U,)
        of_each = torch.arange(int(counts.sum()), device=ids.device)
        rows = self.ngrams[of_each + (starts - offsets).repeat_interleave(counts)]
        parts = F.embedding_bag(rows, self.ngram_embedding.weight, offsets, mode="sum", sparse=self.sparse)
        composed: Tensor = (self.input_embedding(ids) + parts) / (counts + 1)[:, None]
        return composed

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if (saved := state_dict.get(f"{prefix}ngrams")) is not None:
            self.ngrams = self.ngrams.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
