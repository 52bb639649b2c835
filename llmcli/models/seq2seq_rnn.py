"""Recurrent translation with attention (Bahdanau et al. 2015; Luong et al. 2015).

Decisions: an encoder that reads both ways; a decoder that starts from the mean of the source's hidden states; what goes
to the head is tanh(W [s; c; e]) of the decoder's state s, the context c that it looked at and the embedding e of its
token. With Luong's attention that vector is fed into the next step, so that it knows what was looked at.

Shapes: B rows, S source tokens, T target tokens, D model width, N = n_decoder_layers * memories of a cell + 1 vectors.
"""

from __future__ import annotations

from typing import Literal, Self, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.layers.source_attention import Score, SourceAttention, Sources
from llmcli.models.base import State, check_rates, check_sizes
from llmcli.models.encoder_decoder import EncoderDecoder, Memory, embeddings
from llmcli.models.recurrent import Layer

Cell = Literal["lstm", "gru"]


class Seq2SeqRecurrent(EncoderDecoder):
    """source (B, S), target (B, T) -> hidden (B, T, D).

    attention: "bahdanau" looks before the cell, by its old state; "luong" after it, by the new one. source_vocab_size,
    share_embeddings: as of `embeddings`. tie_embeddings: the target's table is the head's weight. dropout: of the
    embeddings, between layers and of the output.
    """

    max_seq_len: int | None = None

    def __init__(
        self,
        *,
        cell: Cell,
        vocab_size: int,
        d_model: int,
        n_encoder_layers: int,
        n_decoder_layers: int,
        attention: Score,
        share_embeddings: bool,
        tie_embeddings: bool,
        dropout: float,
        source_vocab_size: int | None = None,  # runs of earlier versions have no such key
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, d_model=d_model)
        check_sizes(n_encoder_layers=n_encoder_layers, n_decoder_layers=n_decoder_layers)
        check_rates(dropout=dropout)
        if d_model % 2:
            raise InputError(f"model.d_model ({d_model}) must be even: half for each direction of the encoder")
        for name, given, known in (("cell", cell, Cell), ("attention", attention, Score)):
            if given not in get_args(known):
                raise InputError(f"model.{name} ({given}) must be one of {', '.join(get_args(known))}")
        self.vocab_size, self.d_model, self.attention = vocab_size, d_model, attention
        self.n_memories = 2 if cell == "lstm" else 1
        self.tie_embeddings = tie_embeddings
        self.input_embedding, self.target_embedding = embeddings(
            vocab_size=vocab_size, source_vocab_size=source_vocab_size, d_model=d_model, share=share_embeddings
        )
        self.encoder = nn.ModuleList(
            Layer(cell=cell, d_in=d_model, d_out=d_model, causal=False, weight_drop=0.0)
            for _ in range(n_encoder_layers)
        )
        kernel = nn.LSTMCell if cell == "lstm" else nn.GRUCell
        widths = [2 * d_model, *[d_model] * (n_decoder_layers - 1)]  # the first also reads what is fed
        self.decoder = nn.ModuleList(kernel(width, d_model) for width in widths)
        self.look = SourceAttention(d_model=d_model, score=attention)
        self.start = nn.Linear(d_model, d_model * self.n_memories * n_decoder_layers)
        self.output = nn.Linear(3 * d_model, d_model)
        self.dropout = nn.Dropout(dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """Embeddings uniform in [-0.1, 0.1], cells as `recurrent.Layer.init_weights` says, other matrices Xavier's."""
        for table in {self.input_embedding, self.target_embedding}:
            nn.init.uniform_(table.weight, -0.1, 0.1)
        for layer in self.encoder:
            cast("Layer", layer).init_weights()
        for name, weight in self.decoder.named_parameters():
            if weight.ndim == 1:
                nn.init.zeros_(weight)
                if self.n_memories == 2 and name.endswith("bias_ih"):  # the forget gate starts open
                    nn.init.ones_(weight.detach()[self.d_model : 2 * self.d_model])
                continue
            for gate in weight.detach().chunk(len(weight) // self.d_model):
                nn.init.orthogonal_(gate) if name.endswith("weight_hh") else nn.init.xavier_uniform_(gate)
        for part in (self.look, self.start, self.output):
            for weight in part.parameters():
                nn.init.xavier_uniform_(weight) if weight.ndim == 2 else nn.init.zeros_(weight)

    def init_head(self, weight: Tensor) -> None:
        nn.init.uniform_(weight, -0.1, 0.1)

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Memory:
        x = self.dropout(self.input_embedding(source))  # (B, S, D)
        lengths = None if mask is None else mask.sum(1)
        for layer in self.encoder:
            x = self.dropout(layer(x, None, lengths)[0])
        return Memory(x, mask)

    def decode(self, target: Tensor, memory: Memory) -> Tensor:
        return self._read(target, self._first(memory), self.look.sources(memory.hidden, memory.mask))[0]

    def init_state(self, memory: Memory, capacity: int) -> RecurrentDecoderState:
        """`capacity` costs nothing here."""
        rows = len(memory.hidden)
        nothing = torch.zeros(rows, dtype=torch.int64, device=memory.hidden.device)
        trail = self._first(memory)[None]
        return RecurrentDecoderState(trail, nothing, nothing, self.look.sources(memory.hidden, memory.mask))

    def step(
        self, ids: Tensor, state: State, lengths: Tensor | None = None, *, weights: list[Tensor] | None = None
    ) -> tuple[Tensor, RecurrentDecoderState]:
        assert isinstance(state, RecurrentDecoderState)
        hidden, trail = self._read(ids, state.now, state.sources, weights)
        read = torch.full_like(state.read, ids.shape[1]) if lengths is None else lengths.to(state.read)
        return hidden, RecurrentDecoderState(trail, state.lengths, read, state.sources)

    def _first(self, memory: Memory) -> Tensor:
        """What the decoder holds before the first token, (B, N, D): its layers' memories, and nothing that is fed."""
        hidden, mask = memory.hidden, memory.mask
        mean = hidden.mean(1) if mask is None else (hidden * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
        start = torch.tanh(self.start(mean)).view(len(mean), -1, self.d_model)
        return F.pad(start, (0, 0, 0, 1))

    def _read(
        self, target: Tensor, held: Tensor, sources: Sources, weights: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """target (B, T), held (B, N, D) -> hidden (B, T, D), what is held before and after each token (T + 1, B, N, D).

        The last of the N vectors is what Luong's attention feeds into the next step.
        """
        embedded = self.dropout(self.target_embedding(target))  # (B, T, D)
        trail, outputs, looks = [held], [], []
        for x in embedded.unbind(1):
            *memories, fed = held.unbind(1)
            if self.attention == "bahdanau":
                context, look = self.look(memories[-self.n_memories], sources)
                memories = self._cells(torch.cat((x, context), 1), memories)
            else:
                memories = self._cells(torch.cat((x, fed), 1), memories)
                context, look = self.look(memories[-self.n_memories], sources)
            looks.append(look)
            output = torch.tanh(self.output(torch.cat((memories[-self.n_memories], context, x), 1)))
            outputs.append(output)
            held = torch.stack((*memories, output.to(held.dtype)), 1)
            trail.append(held)
        if weights is not None:
            weights.append(sources.shown(torch.stack(looks, 1)[:, None]))
        return self.dropout(torch.stack(outputs, 1)), torch.stack(trail)

    def _cells(self, x: Tensor, memories: list[Tensor]) -> list[Tensor]:
        """One token through all layers: x (B, 2 D), memories (B, D) each, by layer -> the new ones."""
        new: list[Tensor] = []
        for number, cell in enumerate(self.decoder):
            own = memories[number * self.n_memories : (number + 1) * self.n_memories]
            found = cell(x if number == 0 else self.dropout(x), tuple(own) if len(own) > 1 else own[0])
            new += found if len(own) > 1 else [found]
            x = new[-self.n_memories]
        return new


class RecurrentDecoderState(State):
    """What the decoder held after each token of the last step. Its tensors are never written in place.

    trail (T + 1, B, N, D): before the step and after each of its tokens; first (B,): the tokens that each row had
    consumed before it; read (B,): how many of the step's it has.
    """

    def __init__(self, trail: Tensor, first: Tensor, read: Tensor, sources: Sources) -> None:
        self.trail, self.first, self.read, self.sources = trail, first, read, sources

    @property
    def lengths(self) -> Tensor:  # type: ignore[override]
        return self.first + self.read

    @property
    def now(self) -> Tensor:
        """(B, N, D): what each row holds after its last token."""
        return self.trail[self.read, torch.arange(self.trail.shape[1], device=self.trail.device)]

    def reorder(self, index: Tensor) -> Self:
        return type(self)(self.trail[:, index], self.first[index], self.read[index], self.sources.reorder(index))

    def truncate(self, lengths: Tensor) -> Self:
        read = lengths.to(self.first) - self.first
        if bool(((read < 0) | (read > self.read)).any()):
            raise ValueError(
                f"cannot truncate rows of {self.lengths.tolist()} tokens to {lengths.tolist()}: the last step began at "
                f"{self.first.tolist()}"
            )
        return type(self)(self.trail, self.first, read, self.sources)

    def clone(self) -> Self:
        return type(self)(self.trail.clone(), self.first.clone(), self.read.clone(), self.sources)

    def detach(self) -> Self:
        return type(self)(self.trail.detach(), self.first, self.read, self.sources.detach())
