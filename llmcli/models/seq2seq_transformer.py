"""The Transformer that translates (Vaswani et al. 2017).

Decisions: pre-norm blocks by default, which train without a delicate warm-up (Xiong et al. 2020), post-norm as in the
paper on request; biases and layer norms as in the paper; embeddings scaled by sqrt(d_model), one table for source,
target and output (Press & Wolf 2017) as it shares its vocabulary; ReLU. q, k and v are separate parameters.

Shapes: B rows, S source tokens, T target tokens, D model width, H heads, K head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, Self, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.layers.attention import attend, visibility
from llmcli.layers.cache import KVCache
from llmcli.layers.source_cache import SourceCache, families
from llmcli.layers.tree_cache import TreeCache
from llmcli.models.base import State, check_rates, check_sizes
from llmcli.models.encoder_decoder import EncoderDecoder, Memory, embeddings

Norm = Literal["pre", "post"]
Positions = Literal["sinusoidal", "learned"]


class Seq2SeqTransformer(EncoderDecoder):
    """source (B, S), target (B, T) -> hidden (B, T, D).

    d_ff: None is 4 * d_model. norm: before each branch, with one more at the end of each stack, or after the sum.
    source_vocab_size, share_embeddings: as of `embeddings`. tie_embeddings: the target's table is the head's weight.
    dropout: of the embeddings and of each branch's output.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        d_model: int,
        n_encoder_layers: int,
        n_decoder_layers: int,
        n_heads: int,
        d_ff: int | None,
        norm: Norm,
        positions: Positions,
        share_embeddings: bool,
        tie_embeddings: bool,
        dropout: float,
        source_vocab_size: int | None = None,  # runs of earlier versions have no such key
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, max_seq_len=max_seq_len, d_model=d_model, n_heads=n_heads)
        check_sizes(n_encoder_layers=n_encoder_layers, n_decoder_layers=n_decoder_layers)
        check_sizes(d_ff=d_model if d_ff is None else d_ff)
        check_rates(dropout=dropout)
        if d_model % n_heads:
            raise InputError(f"model.d_model ({d_model}) must be divisible by model.n_heads ({n_heads})")
        if positions == "sinusoidal" and d_model % 2:
            raise InputError(f"model.d_model ({d_model}) must be even for sinusoidal positions")
        for name, given, known in (("norm", norm, Norm), ("positions", positions, Positions)):
            if given not in get_args(known):
                raise InputError(f"model.{name} ({given}) must be one of {', '.join(get_args(known))}")
        self.vocab_size, self.max_seq_len, self.d_model, self.n_heads = vocab_size, max_seq_len, d_model, n_heads
        self.longest = max_seq_len
        self.tie_embeddings = tie_embeddings
        self.input_embedding, self.target_embedding = embeddings(
            vocab_size=vocab_size, source_vocab_size=source_vocab_size, d_model=d_model, share=share_embeddings
        )
        places = Sinusoids if positions == "sinusoidal" else nn.Embedding
        self.source_positions = places(max_seq_len, d_model)
        self.target_positions = places(max_seq_len, d_model)
        sizes = {"d_model": d_model, "n_heads": n_heads, "d_ff": d_ff or 4 * d_model}
        self.encoder = nn.ModuleList(
            Block(**sizes, norm=norm, dropout=dropout, reads_source=False) for _ in range(n_encoder_layers)
        )
        self.decoder = nn.ModuleList(
            Block(**sizes, norm=norm, dropout=dropout, reads_source=True) for _ in range(n_decoder_layers)
        )
        last = nn.LayerNorm if norm == "pre" else nn.Identity
        self.encoder_norm, self.decoder_norm = last(d_model), last(d_model)
        self.dropout = nn.Dropout(dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier's uniform matrices, embeddings that are of variance 1 once scaled, zero biases."""
        for name, weight in self.named_parameters():
            if name.endswith("positions.weight"):
                nn.init.normal_(weight, std=0.02)
            elif "embedding" in name:
                nn.init.normal_(weight, std=self.d_model**-0.5)
            elif weight.ndim == 2:
                nn.init.xavier_uniform_(weight)
            elif "norm" in name and name.endswith("weight"):
                nn.init.ones_(weight)
            else:
                nn.init.zeros_(weight)

    def init_head(self, weight: Tensor) -> None:
        nn.init.normal_(weight, std=self.d_model**-0.5)

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Memory:
        self._check_length(source.shape[1])
        positions = torch.arange(source.shape[1], device=source.device)
        x = self._embed(source, positions, self.input_embedding, self.source_positions)  # (B, S, D)
        visible = visibility(source.shape[1], False, mask)
        for block in self.encoder:
            x = block(x, visible=visible, causal=False)
        return Memory(self.encoder_norm(x), mask)

    def decode(self, target: Tensor, memory: Memory) -> Tensor:
        self._check_length(target.shape[1])
        positions = torch.arange(target.shape[1], device=target.device)
        x = self._embed(target, positions, self.target_embedding, self.target_positions)  # (B, T, D)
        sources = self._sources(memory)
        for layer, block in enumerate(self.decoder):
            x = block(x, visible=None, causal=True, sources=sources, layer=layer)
        hidden: Tensor = self.decoder_norm(x)
        return hidden

    def init_state(self, memory: Memory, capacity: int) -> DecoderState:
        self._check_length(capacity)
        cache = KVCache.empty(
            n_layers=len(self.decoder),
            batch_size=len(memory.hidden),
            n_kv_heads=self.n_heads,
            capacity=capacity,
            head_size=self.d_model // self.n_heads,
            device=memory.hidden.device,
            dtype=self.input_embedding.weight.dtype,
        )
        return DecoderState(cache, self._sources(memory))

    def step(
        self, ids: Tensor, state: State, lengths: Tensor | None = None, *, weights: list[Tensor] | None = None
    ) -> tuple[Tensor, DecoderState]:
        assert isinstance(state, DecoderState)
        cache, n_new, tree = state.cache, ids.shape[1], state.tree
        if tree is not None and (n_new > 1 or lengths is not None):
            cache, tree = tree.rows(), None
        # Padding may lie beyond the table; its hidden is meaningless.
        positions = (cache.positions(n_new) if tree is None else tree.positions()).clamp(max=self.longest - 1)  # (B, T)
        x = self._embed(ids, positions, self.target_embedding, self.target_positions)
        if tree is not None:
            visible: Tensor | None = tree.mask()
        else:
            alone = n_new == 1 and cache.uniform is not None  # the newest token sees all there is
            visible = None if alone else cache.mask(n_new)  # (B, 1, T, T so far)
        for layer, block in enumerate(self.decoder):
            x = block(
                x, visible=visible, causal=False, sources=state.sources, layer=layer, cache=tree or cache,
                weights=weights,
            )  # fmt: skip
        hidden: Tensor = self.decoder_norm(x)
        if tree is not None and visible is not None:
            return hidden, DecoderState(cache, state.sources, tree.advance(visible))
        return hidden, DecoderState(cache.advance(n_new if lengths is None else lengths), state.sources)

    def _embed(self, ids: Tensor, positions: Tensor, words: nn.Module, places: nn.Module) -> Tensor:
        embedded: Tensor = self.dropout(words(ids) * math.sqrt(self.d_model) + places(positions))
        return embedded

    def _sources(self, memory: Memory) -> SourceCache:
        """What the decoder's blocks see of the memory, (B, H, S, K) for each."""
        read = [block.source_attention for block in cast("Iterable[Block]", self.decoder)]
        keys = [attention.heads(attention.k(memory.hidden)) for attention in read]
        values = [attention.heads(attention.v(memory.hidden)) for attention in read]
        return SourceCache(keys, values, None if memory.mask is None else memory.mask[:, None, None])

    def _check_length(self, n_tokens: int) -> None:
        if n_tokens > self.longest:
            raise InputError(
                f"{n_tokens} tokens are more than model.max_seq_len ({self.longest})",
                hint="shorten the text or raise batch.seq_len, which model.max_seq_len follows",
            )


class Attention(nn.Module):
    """The four projections of multi-head attention."""

    def __init__(self, *, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q = nn.Linear(d_model, d_model)
        self.k = nn.Linear(d_model, d_model)
        self.v = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, K)."""
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)

    def joined(self, y: Tensor) -> Tensor:
        """(B, H, T, K) -> (B, T, D)."""
        joined: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return joined


class Block(nn.Module):
    """Self-attention, in a decoder attention to the source, a feed-forward network; each a residual branch."""

    def __init__(
        self, *, d_model: int, n_heads: int, d_ff: int, norm: Norm, dropout: float, reads_source: bool
    ) -> None:
        super().__init__()
        self.pre = norm == "pre"
        self.self_attention = Attention(d_model=d_model, n_heads=n_heads)
        self.self_attention_norm = nn.LayerNorm(d_model)
        if reads_source:
            self.source_attention = Attention(d_model=d_model, n_heads=n_heads)
            self.source_attention_norm = nn.LayerNorm(d_model)
        self.up, self.down = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        visible: Tensor | None,
        causal: bool,
        sources: SourceCache | None = None,
        layer: int = 0,
        cache: KVCache | TreeCache | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """x (B, T, D) -> (B, T, D); visible and causal as in `attend`, weights as in `SourceCache.attend`."""
        norm = self.self_attention_norm
        x = self._close(x, self._attend(self._open(x, norm), visible, causal, cache, layer), norm)
        if sources is not None:
            read, norm = self.source_attention, self.source_attention_norm
            q = read.heads(read.q(self._open(x, norm)))
            x = self._close(x, read.joined(sources.attend(layer, q, weights)), norm)
        return self._close(x, self._feed_forward(self._open(x, self.feed_forward_norm)), self.feed_forward_norm)

    def _open(self, x: Tensor, norm: nn.Module) -> Tensor:
        opened: Tensor = norm(x) if self.pre else x
        return opened

    def _close(self, x: Tensor, branch: Tensor, norm: nn.Module) -> Tensor:
        total: Tensor = x + self.dropout(branch)
        return total if self.pre else cast("Tensor", norm(total))

    def _feed_forward(self, h: Tensor) -> Tensor:
        y: Tensor = self.down(F.relu(self.up(h)))
        return y

    def _attend(
        self, h: Tensor, visible: Tensor | None, causal: bool, cache: KVCache | TreeCache | None, layer: int
    ) -> Tensor:
        own = self.self_attention
        q, k, v = (own.heads(project(h)) for project in (own.q, own.k, own.v))  # (B, H, T, K)
        if isinstance(cache, TreeCache):
            assert visible is not None
            return own.joined(cache.attend(layer, q, k, v, visible))
        if cache is not None:
            k, v = cache.append(layer, k, v)
            q = q.to(k.dtype)
        return own.joined(attend(q, k, v, visible=visible, causal=causal))


class DecoderState(State):
    """The keys and values of the target so far and those of the sources. tree: of the target, once several rows of each
    source have been picked; `cache` is then spent."""

    def __init__(self, cache: KVCache, sources: SourceCache, tree: TreeCache | None = None) -> None:
        self.cache, self.sources, self.tree = cache, sources, tree

    @property
    def lengths(self) -> Tensor:  # type: ignore[override]
        return self.cache.lengths if self.tree is None else self.tree.lengths

    def reorder(self, index: Tensor) -> Self:
        count, each = len(self.sources.keys[0]), self.sources.rows_each
        rows, beams = families(index, each, count)
        sources = self.sources.reorder(index)
        if self.tree is not None and beams == each:
            return type(self)(self.cache, sources, self.tree.reorder(index, rows))
        if self.tree is not None:
            return type(self)(self.tree.rows(index), sources)
        if each == 1 and beams > 1 and self.cache.longest > 0:  # rows that begin apart have nothing to share
            return type(self)(self.cache, sources, TreeCache.of(self.cache, rows, beams))
        return type(self)(self.cache.reorder(index), sources)

    def truncate(self, lengths: Tensor) -> Self:
        return type(self)((self.cache if self.tree is None else self.tree.rows()).truncate(lengths), self.sources)

    def clone(self) -> Self:  # the sources are only read
        if self.tree is not None:
            return type(self)(self.cache, self.sources, self.tree.clone())
        return type(self)(self.cache.clone(), self.sources)

    def detach(self) -> Self:
        return type(self)(self.cache.detach(), self.sources.detach(), self.tree)


class Sinusoids(nn.Module):
    """Positions as sines (even columns) and cosines (odd ones) of wavelengths from 2 pi to 10,000 times that.

    positions (...) -> (..., D). The table (length, D) is no part of a checkpoint.
    """

    table: Tensor

    def __init__(self, length: int, d_model: int) -> None:
        super().__init__()
        wavelengths = 10000.0 ** (torch.arange(0, d_model, 2) / d_model)
        angles = torch.arange(length)[:, None] / wavelengths  # (length, D / 2)
        self.register_buffer("table", torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table[positions]
