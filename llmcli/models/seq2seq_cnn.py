"""Convolutional translation (ConvS2S, Gehring et al. 2017): gated convolutions, attention to the source in each layer.

Decisions: one width throughout, so that no projections stand between layers; kernels are initialised for unit variance
as in the paper, without its weight normalisation, which plain gradients with momentum need and adaptive ones do not.

Shapes: B rows, S source tokens, T target tokens, D model width, L decoder layers, W tokens that a kernel sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.layers.source_attention import Sources
from llmcli.models.base import State, check_rates, check_sizes
from llmcli.models.encoder_decoder import EncoderDecoder, Memory, embeddings

HALF = math.sqrt(0.5)  # keeps the variance of a sum of two


class Seq2SeqCNN(EncoderDecoder):
    """source (B, S), target (B, T) -> hidden (B, T, D).

    kernel_size: tokens that a kernel sees, odd: around a source token, up to a target token. source_vocab_size,
    share_embeddings: as of `embeddings`. tie_embeddings: the target's table is the head's weight. dropout: of the
    embeddings, before each convolution and of the output.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        d_model: int,
        n_encoder_layers: int,
        n_decoder_layers: int,
        kernel_size: int,
        share_embeddings: bool,
        tie_embeddings: bool,
        dropout: float,
        source_vocab_size: int | None = None,  # runs of earlier versions have no such key
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, max_seq_len=max_seq_len, d_model=d_model, kernel_size=kernel_size)
        check_sizes(n_encoder_layers=n_encoder_layers, n_decoder_layers=n_decoder_layers)
        check_rates(dropout=dropout)
        if kernel_size % 2 == 0:
            raise InputError(f"model.kernel_size ({kernel_size}) must be odd, as many tokens before as after")
        self.vocab_size, self.max_seq_len, self.d_model = vocab_size, max_seq_len, d_model
        self.longest, self.kernel_size = max_seq_len, kernel_size
        self.tie_embeddings = tie_embeddings
        self.input_embedding, self.target_embedding = embeddings(
            vocab_size=vocab_size, source_vocab_size=source_vocab_size, d_model=d_model, share=share_embeddings
        )
        self.source_positions = nn.Embedding(max_seq_len, d_model)
        self.target_positions = nn.Embedding(max_seq_len, d_model)
        self.encoder = nn.ModuleList(nn.Conv1d(d_model, 2 * d_model, kernel_size) for _ in range(n_encoder_layers))
        self.decoder = nn.ModuleList(
            DecoderBlock(d_model=d_model, kernel_size=kernel_size) for _ in range(n_decoder_layers)
        )
        self.source_in, self.source_out = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.target_in, self.target_out = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal, by fan-in: 4 (1 - dropout) / n for what a gate halves, 1 / n else; embeddings of deviation 0.1."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)
            elif isinstance(module, nn.Conv1d | nn.Linear):
                inputs = module.weight[0].numel()
                gain = 4 * (1 - self.dropout.p) if isinstance(module, nn.Conv1d) else 1.0
                nn.init.normal_(module.weight, std=math.sqrt(gain / inputs))
                nn.init.zeros_(cast("Tensor", module.bias))

    def init_head(self, weight: Tensor) -> None:
        nn.init.normal_(weight, std=0.1)

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Memory:
        self._check_length(source.shape[1])
        places = torch.arange(source.shape[1], device=source.device)
        embedded = self.dropout(self.input_embedding(source) + self.source_positions(places))  # (B, S, D)
        x = self.source_in(embedded)
        side = self.kernel_size // 2
        for kernel in self.encoder:
            h = self.dropout(x)
            if mask is not None:
                h = h * mask[:, :, None]
            x = (_gated(cast("nn.Conv1d", kernel), F.pad(h, (0, 0, side, side))) + x) * HALF
        x = self.source_out(x)
        return ConvMemory(x, mask, (x + embedded) * HALF)

    def decode(self, target: Tensor, memory: Memory) -> Tensor:
        self._check_length(target.shape[1])
        embedded = self._embed(target, torch.arange(target.shape[1], device=target.device))
        sources = self._sources(memory)
        x = self.target_in(embedded)
        for block in self.decoder:
            x = block(x, F.pad(self.dropout(x), (0, 0, self.kernel_size - 1, 0)), embedded, sources)
        hidden: Tensor = self.dropout(self.target_out(x))
        return hidden

    def init_state(self, memory: Memory, capacity: int) -> ConvState:
        self._check_length(capacity)
        before = self.kernel_size - 1
        # one column more takes what padding would write beyond the capacity
        inputs = memory.hidden.new_zeros(len(self.decoder), len(memory.hidden), before + capacity + 1, self.d_model)
        lengths = torch.zeros(len(memory.hidden), dtype=torch.int64, device=memory.hidden.device)
        return ConvState(inputs, lengths, self._sources(memory), 0, before)

    def step(
        self, ids: Tensor, state: State, lengths: Tensor | None = None, *, weights: list[Tensor] | None = None
    ) -> tuple[Tensor, ConvState]:
        assert isinstance(state, ConvState)
        n_new, last = ids.shape[1], state.inputs.shape[2] - 1
        places = state.lengths[:, None] + torch.arange(n_new, device=ids.device)  # (B, T)
        embedded = self._embed(ids, places.clamp(max=self.longest - 1))
        x = self.target_in(embedded)
        seen = state.lengths[:, None] + torch.arange(n_new + self.kernel_size - 1, device=ids.device)
        new = (places + self.kernel_size - 1).clamp(max=last)[:, :, None].expand(-1, -1, self.d_model)
        window = seen.clamp(max=last)[:, :, None].expand(-1, -1, self.d_model)  # (B, T + W - 1, D)
        for layer, block in enumerate(self.decoder):
            inputs = state.inputs[layer]  # (B, W - 1 + capacity + 1, D)
            inputs.scatter_(1, new, x.to(inputs.dtype))
            x = block(x, inputs.gather(1, window), embedded, state.sources, weights)
        hidden: Tensor = self.target_out(x)
        return hidden, state.advance(n_new if lengths is None else lengths)

    def _embed(self, target: Tensor, places: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.target_embedding(target) + self.target_positions(places))
        return embedded

    def _sources(self, memory: Memory) -> Sources:
        assert isinstance(memory, ConvMemory)
        return Sources(memory.values, memory.hidden, memory.mask)

    def _check_length(self, n_tokens: int) -> None:
        if n_tokens > self.longest:
            raise InputError(
                f"{n_tokens} tokens are more than model.max_seq_len ({self.longest})",
                hint="shorten the text or raise batch.seq_len, which model.max_seq_len follows",
            )


@dataclass(frozen=True, slots=True)
class ConvMemory(Memory):
    """hidden (B, S, D) is what attention compares with; values (B, S, D), with the embeddings added, what it gives."""

    values: Tensor


class DecoderBlock(nn.Module):
    """A gated convolution over what came before, then attention to the source; each added to its input."""

    def __init__(self, *, d_model: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel = nn.Conv1d(d_model, 2 * d_model, kernel_size)
        self.query, self.out = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(
        self, x: Tensor, window: Tensor, embedded: Tensor, sources: Sources, weights: list[Tensor] | None = None
    ) -> Tensor:
        """x and embedded (B, T, D), window (B, T + W - 1, D): x after what stands before it -> (B, T, D).

        weights: as in `EncoderDecoder.step`.
        """
        h = _gated(self.kernel, window)
        query = (self.query(h) + embedded) * HALF
        query = query.unflatten(0, (-1, sources.rows_each)).flatten(
            1, 2
        )  # (N, G T, D): no row has a copy of its source
        scores = (query @ sources.keys.mT).float()  # (N, G T, S)
        if sources.mask is not None:
            scores = scores.masked_fill(~sources.mask[:, None], -math.inf)
        given = scores.softmax(dim=-1)
        if weights is not None:
            weights.append(sources.shown(given.view(*x.shape[:2], -1)[:, None]))
        context = given.to(h.dtype) @ sources.hidden
        # a mean of n values has 1 / n of their variance
        n = sources.hidden.shape[1] if sources.mask is None else sources.mask.sum(1)[:, None, None]
        context = (context * (n**0.5 if isinstance(n, int) else n.to(context.dtype).sqrt())).view_as(h)
        attended: Tensor = (self.out(context) + h) * HALF
        return (attended + x) * HALF


def _gated(kernel: nn.Conv1d, x: Tensor) -> Tensor:
    """x (B, T + W - 1, D) -> gated linear units (Dauphin et al. 2017) (B, T, D)."""
    return F.glu(kernel(x.transpose(1, 2)), dim=1).transpose(1, 2)


class ConvState(State):
    """What each layer has read: inputs (L, B, W - 1 + capacity + 1, D), zeros before the text; written in place.

    longest: a bound of `lengths` that nobody need ask the device for.
    """

    def __init__(self, inputs: Tensor, lengths: Tensor, sources: Sources, longest: int, before: int) -> None:
        self.inputs, self.lengths, self.sources = inputs, lengths, sources
        self.longest, self.before = longest, before  # before: the W - 1 columns of zeros

    def advance(self, n_new: int | Tensor) -> Self:
        """The tokens just read counted: the same number for every row, or `lengths` (B,).

        Raises InputError where a row would hold more than the capacity.
        """
        longest = self.longest + (n_new if isinstance(n_new, int) else int(n_new.max()))
        lengths = self.lengths + (n_new if isinstance(n_new, int) else n_new.to(self.lengths))
        capacity = self.inputs.size(2) - self.before - 1
        if longest > capacity and (longest := int(lengths.max())) > capacity:
            raise InputError(
                f"{longest} tokens do not fit the state's capacity of {capacity}",
                hint="ask init_state for a larger capacity, or generate fewer tokens",
            )
        return type(self)(self.inputs, lengths, self.sources, longest, self.before)

    @torch.no_grad()
    def reorder(self, index: Tensor) -> Self:
        index = index.to(self.inputs.device)
        filled = self.before + self.longest  # what lies behind is written before it is read
        inputs = self.inputs.new_empty(len(self.inputs), len(index), *self.inputs.shape[2:])
        torch.index_select(self.inputs[:, :, :filled], 1, index, out=inputs[:, :, :filled])
        return type(self)(inputs, self.lengths[index], self.sources.reorder(index), self.longest, self.before)

    def truncate(self, lengths: Tensor) -> Self:
        lengths = lengths.to(self.lengths)
        if bool(((lengths < 0) | (lengths > self.lengths)).any()):
            raise ValueError(f"cannot truncate rows of {self.lengths.tolist()} tokens to {lengths.tolist()}")
        return type(self)(self.inputs, lengths, self.sources, int(lengths.max()), self.before)

    def clone(self) -> Self:
        return type(self)(self.inputs.clone(), self.lengths.clone(), self.sources, self.longest, self.before)

    def detach(self) -> Self:
        return type(self)(self.inputs.detach(), self.lengths, self.sources.detach(), self.longest, self.before)
