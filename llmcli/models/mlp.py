"""The neural probabilistic language model (Bengio et al. 2003): the last words' embeddings, concatenated, through
one hidden layer.

Decisions: all positions of a text at once; places before the text, or in another document, hold one learned
vector; the paper's direct connections from the embeddings to the output are hidden units that the head
reads, so that logits = b + W x + U tanh(d + H x) is the head's one matrix (U W) times hidden = (tanh(d + H
x), x).

Shapes: B batch, T time, N window, E embedding width, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.layers.window import NOTHING, WindowState
from llmcli.models.base import Backbone, Kind, State, check_rates, check_sizes

Activation = Literal["tanh", "relu", "gelu"]
FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}


class MLP(Backbone):
    """ids (B, T) -> hidden (B, T, D), from the last `window` tokens, the present one among them.

    D is `d_hidden`, with `direct` connections d_hidden + window * d_embed.
    """

    kind: ClassVar[Kind] = "window"
    max_seq_len: int | None = None
    head_bias: bool = True

    def __init__(
        self,
        *,
        vocab_size: int,
        causal: bool,
        window: int,
        d_embed: int,
        d_hidden: int,
        activation: Activation,
        direct: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, window=window, d_embed=d_embed, d_hidden=d_hidden)
        check_rates(dropout=dropout)
        if not causal:
            raise InputError("model=mlp looks back only and cannot be an encoder (causal=false)")
        self.causal = True
        self.vocab_size = vocab_size
        self.window = window
        self.d_model = d_hidden + window * d_embed if direct else d_hidden
        self.activation = activation
        self.direct = direct
        self.input_embedding = nn.Embedding(vocab_size, d_embed)
        self.nothing = nn.Parameter(torch.empty(d_embed))
        self.hidden = nn.Linear(window * d_embed, d_hidden)
        self.dropout = nn.Dropout(dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """Embeddings of unit variance and a hidden layer that keeps it (Glorot & Bengio 2010)."""
        nn.init.normal_(self.input_embedding.weight)
        nn.init.normal_(self.nothing)
        nn.init.xavier_uniform_(self.hidden.weight)
        nn.init.zeros_(self.hidden.bias)

    def forward(
        self,
        ids: Tensor | None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """As in Backbone, inputs_embeds being (B, T, E); a window knows order but no `positions`."""
        x = self._embed(ids) if inputs_embeds is None else inputs_embeds
        return self._hidden(self._windows(x, mask, segment_ids))

    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The embedding (B, T, E) and the hidden layer (B, T, D)."""
        x = self._embed(ids)
        return [x, self._hidden(self._windows(x, mask, None))]

    def init_state(self, batch_size: int, capacity: int) -> WindowState:
        return WindowState.empty(batch_size=batch_size, capacity=capacity, device=self.input_embedding.weight.device)

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, WindowState]:
        assert isinstance(state, WindowState)
        seen = state.read(ids, self.window)  # (B, T, N)
        x = self.input_embedding(seen.clamp(min=0)).where((seen != NOTHING)[..., None], self.nothing)
        return self._hidden(x), state.advance(ids.shape[1] if lengths is None else lengths)

    def _embed(self, ids: Tensor | None) -> Tensor:
        if ids is None:
            raise ValueError("forward needs ids or inputs_embeds")
        x: Tensor = self.input_embedding(ids)
        return x

    def _windows(self, x: Tensor, mask: Tensor | None, segment_ids: Tensor | None) -> Tensor:
        """x (B, T, E) -> what each position sees (B, T, N, E), oldest first."""
        back = self.window - 1
        windows = F.pad(x, (0, 0, back, 0)).unfold(1, self.window, 1).transpose(2, 3)
        real = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        seen = F.pad(real, (back, 0)).unfold(1, self.window, 1)  # (B, T, N)
        if segment_ids is not None:
            segments = F.pad(segment_ids, (back, 0), value=-1).unfold(1, self.window, 1)
            seen = seen & (segments == segment_ids[..., None])
        return windows.where(seen[..., None], self.nothing)

    def _hidden(self, windows: Tensor) -> Tensor:
        """windows (B, T, N, E) -> (B, T, D)."""
        x = windows.flatten(2)  # (B, T, N * E)
        hidden = FUNCTIONS[self.activation](self.hidden(x))
        if self.direct:
            hidden = torch.cat((hidden, x), dim=-1)
        dropped: Tensor = self.dropout(hidden)
        return dropped
