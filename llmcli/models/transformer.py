"""A modern decoder-only transformer, small enough to read top to bottom.

Shapes: B batch, T new tokens, S visible positions, D model width, H heads, G key-value heads, K head size,
V vocabulary.

Decisions; docs/ablations.md has what each is worth:
- hashed n-gram embeddings added to the input (Roy et al. 2022; Huang et al. 2025): what a small model would
  spend its first layer on is looked up instead;
- output projections of both branches and the head start at zero: the untrained model predicts uniformly and
  every block starts as the identity; the head has its own weight, since a shared one cannot start at zero;
- squared ReLU (So et al. 2021), as good as gated units and cheaper;
- rotary positions (Su et al. 2021) and RMS norms without weights, before each branch (Zhang & Sennrich 2019);
- queries and keys normalised per head (Henry et al. 2020) and logits capped at +-`logit_softcap` by a tanh
  (Gemma 2, 2024), applied by the head, so that large learning rates cannot saturate either softmax.
No biases. q, k and v are separate parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.kernels.decoder import Decoder, Weight
from llmcli.layers.attention import attend, visibility
from llmcli.layers.cache import KVCache
from llmcli.layers.ngrams import NgramEmbedding
from llmcli.models.base import Backbone, Kind, State, check_rates, check_sizes

Activation = Literal["relu2", "swiglu", "gelu"]

FEW_TOKENS = 16  # of a row: their padding costs the kernel less than leaving it out costs the blocks
MUCH_PADDING = 0.9  # up to such a share of real tokens the padding of prompts is taken out of all but attention


class Transformer(Backbone):
    """ids (B, T) -> hidden (B, T, D); causal or, with causal=False, an encoder.

    `n_kv_heads` below n_heads shares keys and values between heads (Ainslie et al. 2023). `d_ff` None is 4
    * d_model, or 8/3 of it for swiglu, which has a third matrix. `ngram_rows`: rows of the tables for the
    last 2, 3, ... tokens, [] for none. `dropout` acts on the embedding and on each branch's output.
    """

    kind: ClassVar[Kind] = "attention"

    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        causal: bool,
        d_model: int,
        n_layers: int,
        n_heads: int,
        n_kv_heads: int | None,
        d_ff: int | None,
        activation: Activation,
        qk_norm: bool,
        rope_theta: float,
        ngram_rows: list[int],
        tie_embeddings: bool,
        logit_softcap: float | None,
        dropout: float,
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, max_seq_len=max_seq_len, d_model=d_model, n_layers=n_layers)
        check_sizes(n_heads=n_heads, n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads)
        check_sizes(d_ff=d_model if d_ff is None else d_ff)
        check_rates(dropout=dropout)
        if min(ngram_rows, default=1) < 1:
            raise InputError(f"model.ngram_rows ({min(ngram_rows)}) must be at least 1", hint="[] for none")
        if rope_theta <= 0:
            raise InputError(f"model.rope_theta ({rope_theta}) must be above 0")
        if d_model % n_heads:
            raise InputError(f"model.d_model ({d_model}) must be divisible by model.n_heads ({n_heads})")
        if d_model // n_heads % 2:
            raise InputError(f"model.d_model / model.n_heads ({d_model // n_heads}) must be even for rotary positions")
        n_kv_heads = n_kv_heads or n_heads
        if n_heads % n_kv_heads:
            raise InputError(f"model.n_heads ({n_heads}) must be divisible by model.n_kv_heads ({n_kv_heads})")
        self.causal = causal
        self.d_model = d_model
        self.vocab_size = vocab_size
        self.max_seq_len = max_seq_len
        self.tie_embeddings = tie_embeddings
        self.logit_softcap = logit_softcap
        self.n_kv_heads = n_kv_heads
        self.head_size = d_model // n_heads
        d_ff = d_ff or (8 * d_model // 3 if activation == "swiglu" else 4 * d_model)
        self.steps_by_kernel = causal and Decoder.has_sizes(width=d_model, head_size=self.head_size, d_ff=d_ff)
        self.input_embedding = nn.Embedding(vocab_size, d_model)
        self.ngram_embedding = NgramEmbedding(vocab_size=vocab_size, d_model=d_model, rows=ngram_rows)
        self.blocks = nn.ModuleList(
            Block(
                d_model=d_model,
                n_heads=n_heads,
                n_kv_heads=n_kv_heads,
                d_ff=d_ff,
                activation=activation,
                qk_norm=qk_norm,
                dropout=dropout,
            )
            for _ in range(n_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.cos: Tensor
        self.sin: Tensor
        cos, sin = rotary_table(max_seq_len, self.head_size, rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._decoder: Decoder | None = None  # what takes a step, where it can: see `settle`
        self.init_weights()

    def init_weights(self) -> None:
        """Uniform matrices of variance 1 / (3 * fan-in), zero output projections and n-gram tables."""
        # The sum with the n-grams is normalised: the smaller the start, the sooner they have a say. A tied weight is
        # small because it is the head as well.
        nn.init.normal_(self.input_embedding.weight, std=0.02 if self.tie_embeddings else 0.3)
        for table in self.ngram_embedding.parameters():
            nn.init.zeros_(table)
        for block in self.blocks:
            for name, weight in block.named_parameters():
                if name.endswith(("out.weight", "down.weight")):
                    nn.init.zeros_(weight)
                else:
                    bound = weight.shape[1] ** -0.5
                    nn.init.uniform_(weight, -bound, bound)

    def init_head(self, weight: Tensor) -> None:
        """Zero: the untrained model predicts every token alike."""
        nn.init.zeros_(weight)

    def forward(
        self,
        ids: Tensor | None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """As in Backbone; n-grams are of ids, so `inputs_embeds` without ids gets none."""
        return self._layers(ids, mask, positions, segment_ids, inputs_embeds)[-1]

    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The embedding, each block's output, the last one normalised as `forward` returns it."""
        return self._layers(ids, mask, None, None, None)

    def _layers(
        self,
        ids: Tensor | None,
        mask: Tensor | None,
        positions: Tensor | None,
        segment_ids: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> list[Tensor]:
        x = self._embed(ids, mask, segment_ids, inputs_embeds)  # (B, T, D)
        n_tokens = x.shape[1]
        assert self.max_seq_len is not None
        if n_tokens > self.max_seq_len:
            raise InputError(
                f"{n_tokens} tokens are more than model.max_seq_len ({self.max_seq_len})",
                hint="shorten the input or raise model.max_seq_len",
            )
        if positions is None:
            cos, sin = self.cos[:n_tokens], self.sin[:n_tokens]  # (T, K / 2)
        else:
            cos, sin = self.cos[positions, None], self.sin[positions, None]  # (B, 1, T, K / 2)
        visible = visibility(n_tokens, self.causal, mask, segment_ids)
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1], cos, sin, visible, self.causal))
        states[-1] = norm(states[-1])
        return states

    def _embed(
        self,
        ids: Tensor | None,
        mask: Tensor | None,
        segment_ids: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        if ids is None and inputs_embeds is None:
            raise ValueError("forward needs ids or inputs_embeds")
        x = self.input_embedding(ids) if inputs_embeds is None else inputs_embeds
        if ids is not None and self.ngram_embedding.tables:
            x = x + self.ngram_embedding(self.ngram_embedding.history(ids, mask, segment_ids))
        dropped: Tensor = self.dropout(norm(x))
        return dropped

    def fuse(self) -> None:
        """See Backbone."""
        if not any(isinstance(block, Block) for block in self.blocks):
            return
        for layer, block in enumerate(self.blocks):  # one by one: never are all weights there twice
            assert isinstance(block, Block)
            self.blocks[layer] = FusedBlock(block)
        self.cos, self.sin = fused_table(self.cos, self.sin)

    def settle(self) -> None:
        """See Backbone."""
        narrow = self.input_embedding.weight.dtype == torch.bfloat16  # else no step could use it: nothing is compiled
        if self.steps_by_kernel and narrow and all(isinstance(block, FusedBlock) for block in self.blocks):
            self._decoder = decoder_of(cast("list[FusedBlock]", list(self.blocks)), self.cos, self.sin)

    def init_state(self, batch_size: int, capacity: int) -> DecoderState:
        assert self.max_seq_len is not None
        if capacity > self.max_seq_len:
            raise InputError(f"{capacity} tokens are more than model.max_seq_len ({self.max_seq_len})")
        weight = self.input_embedding.weight
        cache = KVCache.empty(
            n_layers=len(self.blocks),
            batch_size=batch_size,
            n_kv_heads=self.n_kv_heads,
            capacity=capacity,
            head_size=self.head_size,
            device=weight.device,
            dtype=weight.dtype,
        )
        width = self.ngram_embedding.order + capacity
        ids = torch.full((batch_size, width), self.vocab_size, device=weight.device)
        return DecoderState(cache, ids)

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        assert isinstance(state, DecoderState)
        cache = state.cache
        n_new = ids.shape[1]
        x = self.input_embedding(ids)
        if self.ngram_embedding.tables:
            x = x + self.ngram_embedding(state.remember(ids, self.ngram_embedding.order))
        x = self.dropout(norm(x))
        few = self._decoder is not None and n_new <= FEW_TOKENS
        real = None if few or lengths is None else self._real_places(ids, lengths)
        if self._decoder is not None and real is None and x.dtype == torch.bfloat16:
            x = self._decoder.step(x, *cache.room_for(n_new), cache.lengths)
            cache.advance(n_new if lengths is None else lengths)
            return x, state
        if (start := cache.uniform) is not None and start + n_new <= len(self.cos):
            cos, sin = self.cos[start : start + n_new], self.sin[start : start + n_new]  # (T, K / 2)
        else:
            # Padding may lie beyond the table; its hidden is meaningless.
            at = cache.positions(n_new).clamp(max=len(self.cos) - 1)[:, None]
            cos, sin = self.cos[at], self.sin[at]  # (B, 1, T, K / 2)
        alone = n_new == 1 and cache.uniform is not None  # the newest token sees all there is
        visible = None if alone else cache.mask(n_new)  # (B, 1, T, S)
        if real is None:
            for layer, block in enumerate(self.blocks):
                x = block(x, cos, sin, visible, False, cache, layer)
            x = norm(x)
        else:
            x = x.flatten(0, 1)[real][None]  # (1, N, D)
            for layer, block in enumerate(self.blocks):
                x = block(x, cos, sin, visible, False, cache, layer, real)
            x = spread(norm(x), real, *ids.shape)
        cache.advance(n_new if lengths is None else lengths)
        return x, state

    def _real_places(self, ids: Tensor, lengths: Tensor) -> Tensor | None:
        """Of the real tokens in ids (B, T), read row by row: (N,); None where there is little padding to leave out."""
        n_new = ids.shape[1]
        if n_new == 1 or not isinstance(self.blocks[0], FusedBlock):
            return None
        real = (torch.arange(n_new, device=ids.device) < lengths[:, None]).flatten().nonzero()[:, 0]
        return real if len(real) <= MUCH_PADDING * ids.numel() else None


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(
        self,
        *,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        d_ff: int,
        activation: Activation,
        qk_norm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.head_size = d_model // n_heads
        self.activation = activation
        self.qk_norm = qk_norm
        self.q = nn.Linear(d_model, n_heads * self.head_size, bias=False)
        self.k = nn.Linear(d_model, n_kv_heads * self.head_size, bias=False)
        self.v = nn.Linear(d_model, n_kv_heads * self.head_size, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.gate = nn.Linear(d_model, d_ff, bias=False) if activation == "swiglu" else None
        self.down = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        visible: Tensor | None,
        causal: bool,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D); visible and causal as in `attend`; cos and sin (..., T, K / 2)."""
        h = norm(x)
        q, k, v = (self._heads(project(h)) for project in (self.q, self.k, self.v))  # (B, H or G, T, K)
        if self.qk_norm:
            q, k = norm(q), norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(layer, k, v)  # (B, G, S, K)
            q = q.to(k.dtype)
        y = attend(q, k, v, visible=visible, causal=causal)  # (B, H, T, K)
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        branch: Tensor = self.dropout(self.down(self._activate(norm(x))))
        return x + branch

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_size).transpose(1, 2)

    def _activate(self, x: Tensor) -> Tensor:
        up: Tensor = self.up(x)  # (B, T, d_ff)
        if self.gate is not None:
            return F.silu(self.gate(x)) * up
        return F.relu(up).square() if self.activation == "relu2" else F.gelu(up)


class FusedBlock(nn.Module):
    """What a `Block` computes, for inference: one product for q, k and v, one for gate and up, one rotation.

    cos and sin are those of `fused_table`.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.head_size, self.activation, self.qk_norm = block.head_size, block.activation, block.qk_norm
        self.n_heads, self.n_kv_heads = (each.out_features // block.head_size for each in (block.q, block.k))
        self.qkv = joined(block.q, block.k, block.v)
        self.out = block.out
        self.up = block.up if block.gate is None else joined(block.gate, block.up)
        self.down = block.down

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        visible: Tensor | None,
        causal: bool,
        cache: KVCache | None = None,
        layer: int = 0,
        real: Tensor | None = None,
    ) -> Tensor:
        """As of `Block`, with cos and sin (..., T, K).

        real: the places (N,) of the real tokens in the B * T of `visible`; x is those alone then, (1, N, D) as what is
        returned, and no product but that of attention is of padding.
        """
        heads = self.qkv(norm(x))
        if real is not None:
            assert visible is not None
            heads = spread(heads, real, visible.shape[0], visible.shape[2])
        heads = heads.unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H + 2 G, T, K)
        qk, v = heads.split((self.n_heads + self.n_kv_heads, self.n_kv_heads), 1)
        if self.qk_norm:
            qk = norm(qk)
        qk = (qk * cos + qk.roll(self.head_size // 2, -1) * sin).type_as(v)
        q, k = qk.split((self.n_heads, self.n_kv_heads), 1)  # (B, H or G, T, K)
        if cache is not None:
            k, v = cache.append(layer, k, v)  # (B, G, S, K)
            q = q.to(k.dtype)
        y = attend(q, k, v, visible=visible, causal=causal)  # (B, H, T, K)
        y = y.transpose(1, 2).flatten(2)  # (B, T, D)
        x = x + self.out(y if real is None else y.flatten(0, 1)[real][None])
        branch: Tensor = self.down(self._activate(self.up(norm(x))))
        return x + branch

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "swiglu":
            gate, up = x.chunk(2, -1)  # (B, T, d_ff) each
            return F.silu(gate) * up
        return F.relu(x).square() if self.activation == "relu2" else F.gelu(x)


def decoder_of(blocks: Sequence[FusedBlock], cos: Tensor, sin: Tensor) -> Decoder | None:
    """All blocks as one kernel, which computes what they do; None where it cannot. cos, sin: as of `fused_table`."""
    first = blocks[0]
    linears = [(block.qkv, block.out, block.up, block.down) for block in blocks]
    layers = [[cast("Weight", getattr(linear, "few_rows_weight", None)) for linear in four] for four in linears]
    d_model, d_ff = first.out.out_features, first.down.in_features
    if not Decoder.fits(layers, width=d_model, head_size=first.head_size, d_ff=d_ff):
        return None
    return Decoder(
        layers,
        width=d_model,
        n_heads=first.n_heads,
        n_kv_heads=first.n_kv_heads,
        head_size=first.head_size,
        d_ff=d_ff,
        activation=first.activation,
        qk_norm=first.qk_norm,
        cos=cos,
        sin=sin,
    )


class DecoderState(State):
    """The key-value cache and the ids it was made from, which the n-grams of the next tokens start with.

    ids (B, N - 1 + C + 1): a margin of "nothing there" before the first token, the tokens, and one column
    that takes what padding writes beyond the capacity.
    """

    def __init__(self, cache: KVCache, ids: Tensor) -> None:
        self.cache = cache
        self.ids = ids

    @property
    def lengths(self) -> Tensor:  # type: ignore[override]
        return self.cache.lengths

    def remember(self, ids: Tensor, order: int) -> Tensor:
        """Write the next ids (B, T) -> each after the `order` - 1 before it, oldest first (B, T, order)."""
        first = self.cache.positions(ids.shape[1])[..., None]  # (B, T, 1)
        window = (first + torch.arange(order, device=ids.device)).clamp(max=self.ids.shape[1] - 1)
        self.ids.scatter_(1, window[..., -1], ids)
        return self.ids.gather(1, window.flatten(1)).view_as(window)

    def reorder(self, index: Tensor) -> Self:
        return type(self)(self.cache.reorder(index), self.ids[index])

    def truncate(self, lengths: Tensor) -> Self:
        return type(self)(self.cache.truncate(lengths), self.ids)

    def clone(self) -> Self:
        return type(self)(self.cache.clone(), self.ids.clone())

    def detach(self) -> Self:
        return type(self)(self.cache.detach(), self.ids)


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last dimension, without weights: the next matrix can hold them."""
    return F.rms_norm(x, (x.shape[-1],))


def joined(*layers: nn.Linear) -> nn.Linear:
    """One layer that gives the outputs of several without biases, one after the other; to be used, not trained."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    whole = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    whole.weight = nn.Parameter(weight, requires_grad=False)
    return whole


def spread(x: Tensor, real: Tensor, rows: int, n_tokens: int) -> Tensor:
    """Tokens (1, N, D) at their places (N,) in a batch (B, T, D), 0 between them."""
    padded = x.new_zeros(rows * n_tokens, x.shape[-1])
    padded[real] = x[0]
    return padded.view(rows, n_tokens, -1)


def rotary_table(max_seq_len: int, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (max_seq_len, K / 2) of position * theta ** (-2 i / K)."""
    frequencies = theta ** (-torch.arange(0, head_size, 2) / head_size)
    angles = torch.outer(torch.arange(max_seq_len), frequencies)
    return angles.cos(), angles.sin()


def fused_table(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The tables (..., K / 2) of `rotate` as (..., K), so that x turned is x * cos + (x rolled by K / 2) * sin."""
    return torch.cat((cos, cos), -1), torch.cat((sin, -sin), -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + K / 2) of x (B, H, T, K) by their position's angles."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos + right * sin, right * cos - left * sin), dim=-1).type_as(x)
