"""A text as one vector and back: a recurrent encoder and a decoder that is given the code at every step.

Decisions: the encoder reads both ways, and its states are pooled, by their maximum unless told otherwise: every word
then has a short way to the code, which keeps the code of a VAE from being ignored (Long et al. 2019). The code makes
the decoder's first state and is added to each of its inputs through a matrix of its own, which is what appending it to
them comes to. Both halves are `recurrent.Recurrent`.

Shapes: B rows, S source tokens, T target tokens, D model width, Z code width, N memories of the decoder's layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.layers.pooling import How, Pooling
from llmcli.models.base import Kind, State, check_sizes
from llmcli.models.recurrent import Memory, Recurrent, RecurrentState

Cell = Literal["lstm", "gru"]


@dataclass(frozen=True, slots=True)
class Posterior:
    """Where the codes of texts lie: at mean (B, Z), or spread around it by a Gaussian with log_variance (B, Z)."""

    mean: Tensor
    log_variance: Tensor | None = None

    def code(self, noise: Tensor) -> Tensor:
        """noise (..., B, Z) of N(0, 1) -> codes (..., B, Z), through which gradients flow (Kingma & Welling 2014)."""
        if self.log_variance is None:
            return self.mean.expand_as(noise)
        return self.mean + noise * (0.5 * self.log_variance).exp()

    def kl(self) -> Tensor:
        """KL(posterior || N(0, 1)) of each dimension in nats, (B, Z); 0 for a code that is not drawn."""
        if self.log_variance is None:
            return torch.zeros_like(self.mean)
        return 0.5 * (self.mean**2 + self.log_variance.exp() - 1 - self.log_variance)

    def log_weight(self, noise: Tensor) -> Tensor:
        """log N(z; 0, 1) - log posterior(z) of the codes z made of `noise` (..., B, Z): (..., B)."""
        if self.log_variance is None:
            return noise.new_zeros(noise.shape[:-1])
        return 0.5 * (noise**2 + self.log_variance - self.code(noise) ** 2).sum(-1)


class Decoder(Recurrent):
    """target (B, T), code (B, Z) -> hidden (B, T, D). What the code adds to each input is carried along in its state.

    d_code 0: there is no code, and it is a plain language model of single texts.
    """

    def __init__(
        self,
        *,
        cell: Cell,
        vocab_size: int,
        d_model: int,
        d_code: int,
        n_layers: int,
        dropout: float,
        tie_embeddings: bool,
    ) -> None:
        super().__init__(
            cell=cell,
            vocab_size=vocab_size,
            causal=True,
            d_model=d_model,
            d_hidden=None,
            n_layers=n_layers,
            dropout_embedding=0.0,
            dropout_input=dropout,
            dropout_hidden=dropout,
            dropout_output=dropout,
            locked_dropout=True,
            weight_drop=0.0,
            tie_embeddings=tie_embeddings,
        )
        self.n_memories = 2 if cell == "lstm" else 1
        self.to_input = nn.Linear(d_code, d_model, bias=False) if d_code else None
        self.to_state = nn.Linear(d_code, d_model * n_layers * self.n_memories) if d_code else None
        if self.to_input is not None:  # at first no louder than the embeddings, or a drawn code drowns the tokens
            nn.init.uniform_(self.to_input.weight, -0.1 / d_code**0.5, 0.1 / d_code**0.5)

    def start(self, code: Tensor) -> RecurrentState:
        """code (B, Z) -> the state before the first token."""
        return RecurrentState(self._first(code), torch.zeros(len(code), dtype=torch.int64, device=code.device))

    def decode(self, target: Tensor, code: Tensor) -> Tensor:
        """target (B, T), code (B, Z) -> hidden (B, T, D)."""
        return self._read(self._embed(target, None), self._first(code), None)[0][-1]

    def _first(self, code: Tensor) -> list[Memory]:
        """The memory of each layer, and last what the code adds to every input (B, D)."""
        weight = self.input_embedding.weight
        code = code.to(weight)  # which is float32 where the weights are bfloat16
        if self.to_input is None or self.to_state is None:
            start, added = weight.new_zeros(len(code), len(self.layers) * self.n_memories, self.d_model), None
        else:
            start = torch.tanh(self.to_state(code)).view(len(code), -1, self.d_model)  # (B, N, D)
            added = self.to_input(code)
        memories = [tuple(layer.unbind(1)) for layer in torch.split(start.to(weight.dtype), self.n_memories, 1)]
        return [*memories, () if added is None else (added,)]

    def _read(
        self, x: Tensor, memories: list[Memory] | None, lengths: Tensor | None
    ) -> tuple[list[Tensor], list[Memory]]:
        assert memories is not None, "begin with `start`"
        *carried, added = memories
        states, new = super()._read(x + added[0][:, None] if added else x, carried, lengths)
        return states, [*new, added]


class Autoencoder(nn.Module):
    """source (B, S) -> code (B, Z); code (B, Z), target (B, T) -> hidden (B, T, D), at t from the target up to t.

    d_code 0: nothing is read, and the decoder is a plain language model of single texts. pooling: of the encoder's
    states (`layers.Pooling`). share_embeddings: one table for both halves. tie_embeddings: the decoder's table is the
    head's weight. dropout: of the embeddings, between layers and of the decoder's output.
    """

    kind: ClassVar[Kind] = "autoencoder"
    max_seq_len: int | None = None

    def __init__(
        self,
        *,
        cell: Cell,
        vocab_size: int,
        d_model: int,
        d_code: int,
        n_encoder_layers: int,
        n_decoder_layers: int,
        pooling: How,
        share_embeddings: bool,
        tie_embeddings: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        check_sizes(n_encoder_layers=n_encoder_layers, n_decoder_layers=n_decoder_layers)
        if d_code < 0:
            raise InputError(f"model.d_code ({d_code}) must be at least 0")
        if cell not in get_args(Cell):
            raise InputError(f"model.cell ({cell}) must be one of {', '.join(get_args(Cell))}")
        self.vocab_size, self.d_model, self.d_code = vocab_size, d_model, d_code
        self.tie_embeddings = tie_embeddings
        self.decoder = Decoder(
            cell=cell,
            vocab_size=vocab_size,
            d_model=d_model,
            d_code=d_code,
            n_layers=n_decoder_layers,
            dropout=dropout,
            tie_embeddings=tie_embeddings,
        )
        if d_code == 0:
            return
        self.encoder = Recurrent(
            cell=cell,
            vocab_size=vocab_size,
            causal=False,
            d_model=d_model,
            d_hidden=None,
            n_layers=n_encoder_layers,
            dropout_embedding=0.0,
            dropout_input=dropout,
            dropout_hidden=dropout,
            dropout_output=0.0,
            locked_dropout=True,
            weight_drop=0.0,
            tie_embeddings=False,
        )
        if share_embeddings:
            self.encoder.input_embedding = self.decoder.input_embedding
        self.pool = Pooling(pooling, d_model)
        self.mean = nn.Linear(self.pool.width, d_code)

    @property
    def input_embedding(self) -> nn.Embedding:
        """Of what is written, and where the table is shared of what is read."""
        return self.decoder.input_embedding

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Posterior:
        """source (B, S) int64, mask (B, S) bool with at least one real token a row."""
        if self.d_code == 0:
            nothing = self.input_embedding.weight.new_zeros(len(source), 0)
            return Posterior(nothing, nothing)
        return self.posterior(self.pool(self.encoder(source, mask), mask))

    def posterior(self, read: Tensor) -> Posterior:
        """What the encoder has read of each text, (B, W), -> its code."""
        return Posterior(at_least_float32(self.mean(read)))

    def decode(self, target: Tensor, code: Tensor) -> Tensor:
        """target (B, T), beginning with what stands before its first token, code (B, Z) -> hidden (B, T, D)."""
        return self.decoder.decode(target, code)

    def init_state(self, code: Tensor, capacity: int) -> RecurrentState:
        """Before the first token of a text for each code (B, Z); `capacity` costs nothing here."""
        return self.decoder.start(code)

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, RecurrentState]:
        """Consume target ids (B, T) after what `state` holds -> hidden (B, T, D), new state; as `Backbone.step`."""
        return self.decoder.step(ids, state, lengths)


def at_least_float32(x: Tensor) -> Tensor:
    """Whatever autocast does: variances and their logarithms need the range and the digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
