"""Deep pyramid convolutional network (Johnson & Zhang 2017): far words meet because the text is halved again and again.

    region embedding -> block -> (halve -> block) * (n_blocks - 1),  block(x) = x + W relu(V relu(x) + c) + b

Decisions: V and W are filters over three places and of the same number at every level, so that each costs half of the
one before; the shortcut is the identity and the activation stands before the filters, as in the paper, whose region
embeddings from unlabelled text are left out. The states of the last level are repeated to the length of the text, so
that each token has one and any pooling works. What is beyond a text's end is zero to the filters and nothing to the
maximum at every level, so that padding is never seen.

Shapes: B batch, T time, E embedding width, D model width.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.models.base import EncoderOnly, Kind, check_rates, check_sizes

_WIDTH = 3  # of the filters, and of the windows of the maximum, which move on by two


class Block(nn.Module):
    """Two layers of filters and the shortcut around them: (B, D, T) -> (B, D, T)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(d_model, d_model, _WIDTH, padding=1)
        self.second = nn.Conv1d(d_model, d_model, _WIDTH, padding=1)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """real (B, 1, T): 1 for what belongs to the text, 0 beyond its end."""
        inner: Tensor = self.first(F.relu(x)) * real
        inner = self.second(F.relu(inner)) * real
        return x + inner


class DPCNN(EncoderOnly):
    """ids (B, T) -> hidden (B, T, D): what the last level of the pyramid says about the part that a token stands in.

    n_blocks: of two layers each; a state of the last level stands for 2 ** (n_blocks - 1) tokens. dropout: of the
    embeddings.
    """

    kind: ClassVar[Kind] = "convolution"
    max_seq_len: int | None = None

    def __init__(
        self, *, vocab_size: int, causal: bool, d_embed: int, d_model: int, n_blocks: int, dropout: float
    ) -> None:
        super().__init__(causal=causal, name="dpcnn")
        check_sizes(vocab_size=vocab_size, d_embed=d_embed, d_model=d_model, n_blocks=n_blocks)
        check_rates(dropout=dropout)
        self.vocab_size, self.d_model = vocab_size, d_model
        self.input_embedding = nn.Embedding(vocab_size, d_embed)
        self.dropout = nn.Dropout(dropout)
        self.region = nn.Conv1d(d_embed, d_model, _WIDTH, padding=1)
        self.blocks = nn.ModuleList([Block(d_model) for _ in range(n_blocks)])
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.uniform_(self.input_embedding.weight, -0.25, 0.25)
        for name, parameter in [*self.region.named_parameters(), *self.blocks.named_parameters()]:
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
        x, length = self.dropout(x).transpose(1, 2), x.size(1)  # (B, E, T)
        real = x.new_ones(x.size(0), 1, length) if mask is None else mask.unsqueeze(1).to(x.dtype)  # (B, 1, T)
        x = self.region(x) * real  # (B, D, T)
        for level, block in enumerate(self.blocks):
            if level:
                x, real = _halved(x, real)  # (B, D, T / 2), (B, 1, T / 2)
            x = block(x, real)
        states = cast(Tensor, x.transpose(1, 2))  # (B, T / 2 ** (n_blocks - 1), D)
        return states.repeat_interleave(2 ** (len(self.blocks) - 1), dim=1)[:, :length]

    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        return [self.embed(ids, mask, None, None), self(ids, mask)]


def _halved(x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, D, T), real (B, 1, T) -> the maxima of places 2j, 2j + 1 and 2j + 2 that are real: (B, D, (T + 1) / 2)."""
    lowest = torch.finfo(x.dtype).min
    x = F.pad(x.masked_fill(real == 0, lowest), (0, _WIDTH - 1), value=lowest)
    real = real[:, :, ::2]
    return F.max_pool1d(x, _WIDTH, stride=2).masked_fill(real == 0, 0), real
