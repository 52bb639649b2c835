"""Convolutional network for sentences (Kim 2014): filters over runs of words, of which the head keeps the strongest.

Decisions: filters of each width are centred on a token and see zeros beyond the text, so that every token has a hidden
state and no padding is seen; the maximum over time is the head's `pooling: max`.

Shapes: B batch, T time, E embedding width, D = filters * number of widths.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.models.base import EncoderOnly, Kind, check_rates, check_sizes


class TextCNN(EncoderOnly):
    """ids (B, T) -> hidden (B, T, D): what each filter finds around each token.

    widths: of the filters, in tokens. n_filters: of each width. dropout: of the embeddings.
    """

    kind: ClassVar[Kind] = "convolution"
    max_seq_len: int | None = None

    def __init__(
        self, *, vocab_size: int, causal: bool, d_embed: int, widths: list[int], n_filters: int, dropout: float
    ) -> None:
        super().__init__(causal=causal, name="textcnn")
        check_sizes(vocab_size=vocab_size, d_embed=d_embed, n_filters=n_filters, widths=min(widths, default=0))
        check_rates(dropout=dropout)
        if len(set(widths)) < len(widths):
            raise InputError(f"widths ({widths}) must differ")
        self.vocab_size, self.d_model, self.widths = vocab_size, n_filters * len(widths), widths
        self.input_embedding = nn.Embedding(vocab_size, d_embed)
        self.dropout = nn.Dropout(dropout)
        self.filters = nn.ModuleList([nn.Conv1d(d_embed, n_filters, width) for width in widths])
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.uniform_(self.input_embedding.weight, -0.25, 0.25)
        for name, parameter in self.filters.named_parameters():
            nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        ids: Tensor | None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """ids (B, T), mask (B, T) -> hidden (B, T, D)."""
        x = self.embed(ids, mask, segment_ids, inputs_embeds)
        x = self.dropout(x).transpose(1, 2)  # (B, E, T)
        # padded here: padding="same" copies, and warns, for even widths
        sides = [((width - 1) // 2, width // 2) for width in self.widths]
        found = [F.relu(conv(F.pad(x, each))) for conv, each in zip(self.filters, sides, strict=True)]
        return torch.cat(found, dim=1).transpose(1, 2)  # (B, T, D)

    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        return [self.embed(ids, mask, None, None), self(ids, mask)]
