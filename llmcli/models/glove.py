"""GloVe (Pennington et al. 2014): vectors whose products are the logarithms of how often words occur together.

With x_ij, how often word j stands near word i, the loss is the sum over all x_ij > 0 of

    f(x_ij) (w_i . w'_j + b_i + b'_j - ln x_ij)^2,    f(x) = min(1, (x / x_max)^alpha)

and w_i + w'_i is the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.models.base import WordVectorModel, check_sizes


class GloVe(WordVectorModel):
    """Learns from the cells of `data.cooccurrence.Cooccurrences`.

    The counts of another text are taken as if it were as long as the training text, whose length is a buffer.
    """

    learns_from: ClassVar[str] = "cells"
    loss_unit: ClassVar[str] = "weighted squared error"

    def __init__(self, *, vocab_size: int, d_model: int, x_max: float, alpha: float, sparse: bool) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, d_model=d_model)
        for name, value in {"x_max": x_max, "alpha": alpha}.items():
            if value <= 0:
                raise InputError(f"{name} ({value}) must be above 0")
        self.vocab_size, self.d_model, self.sparse = vocab_size, d_model, sparse
        self.x_max, self.alpha = x_max, alpha
        self.input_embedding = nn.Embedding(vocab_size, d_model, sparse=sparse)
        self.output_embedding = nn.Embedding(vocab_size, d_model, sparse=sparse)
        self.input_bias = nn.Embedding(vocab_size, 1, sparse=sparse)
        self.output_bias = nn.Embedding(vocab_size, 1, sparse=sparse)
        self.register_buffer("train_tokens", torch.zeros((), dtype=torch.int64))
        self.init_weights()

    def init_weights(self) -> None:
        """As in the authors' program."""
        for table in (self.input_embedding, self.output_embedding, self.input_bias, self.output_bias):
            nn.init.uniform_(table.weight, -0.5 / self.d_model, 0.5 / self.d_model)

    def begin(self, *, words: Sequence[str], tokens: int) -> None:
        self.get_buffer("train_tokens").fill_(tokens)

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """The targets are cells."""
        rows, columns = batch["rows"], batch["columns"]  # (B,)
        counts = batch["counts"] * (int(self.get_buffer("train_tokens")) / batch["text_tokens"])
        scores = (self.input_embedding(rows) * self.output_embedding(columns)).sum(-1)
        scores = scores + self.input_bias(rows)[:, 0] + self.output_bias(columns)[:, 0]
        weights = (counts / self.x_max).clamp(max=1.0) ** self.alpha
        return (weights * (scores - counts.log()).square()).sum(), len(rows)

    def word_vectors(self) -> Tensor:
        return self.input_embedding.weight + self.output_embedding.weight
