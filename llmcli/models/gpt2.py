"""GPT-2 (Radford et al. 2019).

Decisions, all the paper's or its released code's: learned absolute positions, pre-norm blocks with
LayerNorm and biases everywhere, GELU in its tanh form, a feed-forward layer four times as wide, the head
tied to the embedding, normal initialisation with the residual projections scaled down by the depth. Only q,
k and v differ: they are separate parameters, so that adapters and quantisation can address them.

Shapes: B batch, T time, D model width, H heads, K head size, S keys.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.layers.attention import attend, visibility
from llmcli.layers.cache import KVCache
from llmcli.models.base import Backbone, Kind, State, check_rates, check_sizes


class GPT2(Backbone):
    """ids (B, T) -> hidden (B, T, D); causal or, with causal=False, an encoder of the same build.

    `dropout` acts on the embeddings, the attention weights and each branch's output.
    """

    kind: ClassVar[Kind] = "attention"
    tie_embeddings: bool = True

    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        causal: bool,
        d_model: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, max_seq_len=max_seq_len, d_model=d_model, n_layers=n_layers, n_heads=n_heads)
        check_rates(dropout=dropout)
        if d_model % n_heads:
            raise InputError(f"d_model ({d_model}) must be divisible by n_heads ({n_heads})")
        self.vocab_size = vocab_size
        self.longest = max_seq_len
        self.max_seq_len = max_seq_len
        self.causal = causal
        self.d_model = d_model
        self.n_heads = n_heads
        self.input_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_seq_len, d_model)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(d_model=d_model, n_heads=n_heads, dropout=dropout) for _ in range(n_layers))
        self.final_norm = nn.LayerNorm(d_model, eps=1e-5)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal with std 0.02, over the square root of the number of branches for what adds to the residual."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * len(self.blocks)) ** 0.5)

    def forward(
        self,
        ids: Tensor | None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """As in Backbone; without `positions` each packed document starts at 0. inputs_embeds lack positions."""
        return self._states(ids, mask, positions, segment_ids, inputs_embeds)[-1]

    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The embedding and each block's output, the last one normalised as `forward` returns it."""
        return self._states(ids, mask, None, None, None)

    def init_state(self, batch_size: int, capacity: int) -> KVCache:
        self._check_length(capacity)
        weight = self.input_embedding.weight
        return KVCache.empty(
            n_layers=len(self.blocks),
            batch_size=batch_size,
            n_kv_heads=self.n_heads,
            capacity=capacity,
            head_size=self.d_model // self.n_heads,
            device=weight.device,
            dtype=weight.dtype,
        )

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, KVCache]:
        assert isinstance(state, KVCache)
        n_new = ids.shape[1]
        # Padding may lie beyond the table; its hidden is meaningless.
        positions = state.positions(n_new).clamp(max=self.longest - 1)  # (B, T)
        x = self.dropout(self.input_embedding(ids) + self.position_embedding(positions))
        alone = n_new == 1 and state.uniform is not None  # the newest token sees all there is
        visible = None if alone else state.mask(n_new)  # (B, 1, T, S)
        for layer, block in enumerate(self.blocks):
            x = block(x, visible, False, state, layer)
        hidden: Tensor = self.final_norm(x)
        return hidden, state.advance(n_new if lengths is None else lengths)

    def _states(
        self,
        ids: Tensor | None,
        mask: Tensor | None,
        positions: Tensor | None,
        segment_ids: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> list[Tensor]:
        if inputs_embeds is None:
            if ids is None:
                raise ValueError("forward needs ids or inputs_embeds")
            inputs_embeds = self.input_embedding(ids)
        n_tokens = inputs_embeds.shape[1]
        self._check_length(n_tokens)
        if positions is None:
            positions = torch.arange(n_tokens, device=inputs_embeds.device)[None]  # (1, T)
            if segment_ids is not None:
                first = F.pad(segment_ids[:, 1:] != segment_ids[:, :-1], (1, 0), value=True)
                positions = positions - (positions * first).cummax(dim=1).values  # (B, T)
        states = [self.dropout(inputs_embeds + self.position_embedding(positions))]
        visible = visibility(n_tokens, self.causal, mask, segment_ids)
        for block in self.blocks:
            states.append(block(states[-1], visible, self.causal))
        states[-1] = self.final_norm(states[-1])
        return states

    def _check_length(self, n_tokens: int) -> None:
        if n_tokens > self.longest:
            raise InputError(
                f"{n_tokens} tokens are more than max_seq_len ({self.longest})",
                hint="shorten the input or raise model.max_seq_len",
            )


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, *, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(d_model, eps=1e-5)
        self.q = nn.Linear(d_model, d_model)
        self.k = nn.Linear(d_model, d_model)
        self.v = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)
        self.feed_forward_norm = nn.LayerNorm(d_model, eps=1e-5)
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        visible: Tensor | None,
        causal: bool,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D). visible (B or 1, 1, T, S): None is all, with `causal` all up to itself."""
        h = self.attention_norm(x)
        q, k, v = (self._heads(project(h)) for project in (self.q, self.k, self.v))  # (B, H, T, K)
        if cache is not None:
            k, v = cache.append(layer, k, v)  # (B, H, S, K)
            q = q.to(k.dtype)
        y = self._attend(q, k, v, visible, causal).transpose(1, 2).flatten(2)  # (B, T, D)
        x = x + self.dropout(self.out(y))
        branch: Tensor = self.dropout(self.down(F.gelu(self.up(self.feed_forward_norm(x)), approximate="tanh")))
        return x + branch

    def _heads(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        return x.view(b, t, self.n_heads, d // self.n_heads).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool) -> Tensor:
        dropout = self.dropout.p if self.training else 0.0
        return attend(q, k, v, visible=visible, causal=causal, dropout=dropout)
