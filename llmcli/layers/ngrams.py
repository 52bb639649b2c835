"""Hashed n-grams of ids as vectors.

Shapes: B batch, T time, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NgramEmbedding(nn.Module):
    """What precedes a token, looked up: the sum over one hashed table per n-gram length (Roy et al. 2022).

    `rows[i]` is the size of the table for n = i + 2. A table with a row for every n-gram has no collisions.
    """

    PRIME: ClassVar[int] = 2**31 - 1  # a key times a vocabulary below 2**32 stays inside int64
    MIXER: ClassVar[int] = 1_103_515_245

    def __init__(self, *, vocab_size: int, d_model: int, rows: list[int]) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.rows = rows
        self.order = len(rows) + 1
        self.tables = nn.ModuleList(nn.Embedding(n, d_model) for n in rows)

    def forward(self, history: Tensor) -> Tensor:
        """history (B, T, order): each token after the ones before it, oldest first -> (B, T, D)."""
        base = self.vocab_size + 1  # one more id: nothing there
        key = history[..., -1]
        place = 1
        total: Tensor | float = 0.0
        for n, (table, rows) in enumerate(zip(self.tables, self.rows, strict=True), start=2):
            place = place * base % self.PRIME
            key = (key + history[..., -n] * place) % self.PRIME
            exact = base**n <= rows
            index = key if exact else key * self.MIXER % self.PRIME % rows
            total = total + table(index)
        assert isinstance(total, Tensor)
        return total

    def history(self, ids: Tensor, mask: Tensor | None, segment_ids: Tensor | None) -> Tensor:
        """ids (B, T) -> (B, T, order); `vocab_size` stands where padding or another document would be."""
        columns = [ids]
        for back in range(1, self.order):
            before = F.pad(ids, (back, 0), value=self.vocab_size)[:, : ids.shape[1]]
            if mask is not None:
                real = F.pad(mask, (back, 0), value=False)[:, : ids.shape[1]]
                before = before.where(real, self.vocab_size)
            if segment_ids is not None:
                same = F.pad(segment_ids, (back, 0), value=-1)[:, : ids.shape[1]] == segment_ids
                before = before.where(same, self.vocab_size)
            columns.append(before)
        return torch.stack(columns[::-1], dim=-1)
