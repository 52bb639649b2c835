"""Averaged embeddings (Iyyer et al. 2015) with hashed n-grams: the classifier of fastText (Joulin et al. 2017).

Decisions: an n-gram is a row of a table of fixed size, found by a hash of its ids, and collisions are left alone, as
in fastText; the mean over time is the head's `pooling: mean`.

Shapes: B batch, T time, D model width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.models.base import EncoderOnly, Kind, check_rates, check_sizes

_MIXER = 0x9E3779B1  # a prime near 2^32 / golden ratio, whose multiples are spread evenly


class DAN(EncoderOnly):
    """ids (B, T) -> hidden (B, T, D): the vector of each token and of the n-grams that end with it, up to `n`.

    rows: of the table that n-grams share (n=1: no table). dropout: of whole tokens and n-grams (word dropout).
    """

    kind: ClassVar[Kind] = "average"
    max_seq_len: int | None = None

    def __init__(self, *, vocab_size: int, causal: bool, d_model: int, n: int, rows: int, dropout: float) -> None:
        super().__init__(causal=causal, name="dan")
        check_sizes(vocab_size=vocab_size, d_model=d_model, n=n)
        check_rates(dropout=dropout)
        if n > 1 and rows < 1:
            raise InputError(f"rows ({rows}) must be at least 1 for n-grams of up to n ({n})", "n=1 has single words")
        self.vocab_size, self.d_model, self.n, self.rows, self.dropout = vocab_size, d_model, n, rows, dropout
        self.input_embedding = nn.Embedding(vocab_size, d_model)
        self.ngram_embedding = nn.Embedding(rows, d_model) if n > 1 else None
        self.init_weights()

    def init_weights(self) -> None:
        for table in (self.input_embedding, self.ngram_embedding):
            if table is not None:
                nn.init.uniform_(table.weight, -1 / self.d_model, 1 / self.d_model)

    def forward(
        self,
        ids: Tensor | None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """ids (B, T), mask (B, T) -> hidden (B, T, D). With inputs_embeds there are no n-grams."""
        hidden = self._dropped(self.embed(ids, mask, segment_ids, inputs_embeds))
        if self.ngram_embedding is None or ids is None:
            return hidden
        key = ids
        for size in range(2, self.n + 1):
            if ids.size(1) < size:
                break
            # the n-gram that ends at t, from the (n - 1)-gram that ends at t - 1
            key = ((key[:, :-1] + 1) * _MIXER + ids[:, size - 1 :]) % 2**31  # (B, T - size + 1)
            found = self._dropped(self.ngram_embedding(key % self.rows))
            hidden = hidden + nn.functional.pad(found, (0, 0, size - 1, 0))
        return hidden

    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        return [self.embed(ids, mask, None, None), self(ids, mask)]

    def _dropped(self, vectors: Tensor) -> Tensor:
        """Whole vectors (B, T, D) left out in training, the others scaled up."""
        if not self.training or not self.dropout:
            return vectors
        kept = torch.rand(vectors.shape[:2], device=vectors.device) >= self.dropout
        return vectors * (kept / (1 - self.dropout)).unsqueeze(-1).to(vectors.dtype)
