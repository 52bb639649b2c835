"""Recurrent language models: the simple network (Elman 1990; Mikolov et al. 2010), the LSTM (Hochreiter &
Schmidhuber 1997) and the GRU (Cho et al. 2014), with the regularisers of the AWD-LSTM (Merity et al. 2018).

Decisions: torch's fused kernels, one per layer; the embedding and the last layer have the model's width, so
tying them to the head needs no projection; the layers between may be wider. With causal=False each layer
reads both ways and half of its width belongs to each direction. Packed documents and padded batches are
read as separate sequences, so nothing leaks between them in either direction.

Shapes: B batch, T time, D model width, W width of one layer, R separate sequences, L the longest of them, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llmcli.errors import InputError
from llmcli.models.base import Backbone, Kind, State, check_rates, check_sizes

Cell = Literal["rnn_tanh", "rnn_relu", "lstm", "gru"]
Memory = tuple[Tensor, ...]  # what one layer carries on: (h,), for an LSTM (h, c); each (B, W)


class Recurrent(Backbone):
    """ids (B, T) -> hidden (B, T, D), reading left to right or, with causal=False, both ways.

    `d_hidden`: width of every layer but the last, None for d_model. Dropout: `dropout_embedding` drops
    whole words of the vocabulary (Gal & Ghahramani 2016), `dropout_input`, `dropout_hidden` and
    `dropout_output` act before, between and after the layers, never on the recurrence (Zaremba et al.
    2014); with `locked_dropout` the same units at every position of a sequence (Gal & Ghahramani 2016),
    else fresh ones. `weight_drop` drops hidden-to-hidden weights (Wan et al. 2013; Merity et al. 2018).
    """

    kind: ClassVar[Kind] = "recurrent"
    max_seq_len: int | None = None
    head_bias: bool = True

    def __init__(
        self,
        *,
        cell: Cell,
        vocab_size: int,
        causal: bool,
        d_model: int,
        d_hidden: int | None,
        n_layers: int,
        dropout_embedding: float,
        dropout_input: float,
        dropout_hidden: float,
        dropout_output: float,
        locked_dropout: bool,
        weight_drop: float,
        tie_embeddings: bool,
    ) -> None:
        super().__init__()
        d_hidden = d_model if d_hidden is None else d_hidden
        check_sizes(vocab_size=vocab_size, d_model=d_model, d_hidden=d_hidden, n_layers=n_layers)
        check_rates(
            dropout_embedding=dropout_embedding,
            dropout_input=dropout_input,
            dropout_hidden=dropout_hidden,
            dropout_output=dropout_output,
            weight_drop=weight_drop,
        )
        for name, width in (("d_model", d_model), ("d_hidden", d_hidden)):
            if not causal and width % 2:
                raise InputError(f"{name} ({width}) must be even with causal=false: half for each direction")
        self.vocab_size = vocab_size
        self.causal = causal
        self.d_model = d_model
        self.tie_embeddings = tie_embeddings
        self.dropout_embedding = dropout_embedding
        self.locked_dropout = locked_dropout
        self.dropouts = [dropout_input, *[dropout_hidden] * (n_layers - 1), dropout_output]
        self.input_embedding = nn.Embedding(vocab_size, d_model)
        widths = [d_model, *[d_hidden] * (n_layers - 1), d_model]
        self.layers = nn.ModuleList(
            Layer(cell=cell, d_in=d_in, d_out=d_out, causal=causal, weight_drop=weight_drop)
            for d_in, d_out in pairwise(widths)
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Embedding uniform in [-0.1, 0.1] (Merity et al. 2018); the layers as `Layer.init_weights` says."""
        nn.init.uniform_(self.input_embedding.weight, -0.1, 0.1)
        for layer in self._layers():
            layer.init_weights()

    def init_head(self, weight: Tensor) -> None:
        """As the embedding, which is what a tied head has."""
        nn.init.uniform_(weight, -0.1, 0.1)

    def forward(
        self,
        ids: Tensor | None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """As in Backbone; order is all that a recurrence knows of `positions`. hidden of padding is zero."""
        return self._states(ids, mask, segment_ids, inputs_embeds)[-1]

    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The embedding and each layer's output; the inner ones are d_hidden wide."""
        return self._states(ids, mask, None, None)

    def init_state(self, batch_size: int, capacity: int) -> RecurrentState:
        """All zeros; `capacity` costs nothing here."""
        if not self.causal:
            raise InputError("a model that reads both ways (causal=false) cannot continue a text")
        weight = self.input_embedding.weight
        memories = [
            tuple(weight.new_zeros(batch_size, layer.width) for _ in range(layer.n_memories))
            for layer in self._layers()
        ]
        return RecurrentState(memories, torch.zeros(batch_size, dtype=torch.int64, device=weight.device))

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, RecurrentState]:
        """As in Backbone. Gradients flow into `state`; `state.detach()` truncates back-propagation."""
        assert isinstance(state, RecurrentState)
        if state.pending is not None:
            state = self._replay(state)
        n_new: int | Tensor = ids.shape[1]
        if lengths is not None:
            lengths = lengths.to(state.lengths)
            n_new = lengths
            if bool((lengths == ids.shape[1]).all()):  # nothing to skip: the kernel for whole rows is faster
                lengths = None
        states, memories = self._read(self._embed(ids, None), state.memories, lengths)
        last = LastStep(state.memories, state.lengths, ids)
        return states[-1], RecurrentState(memories, state.lengths + n_new, last)

    def _replay(self, state: RecurrentState) -> RecurrentState:
        """Read again what `truncate` kept of the last step."""
        assert state.last is not None and state.pending is not None
        start = RecurrentState(state.last.memories, state.last.lengths)
        kept = int(state.pending.max())
        return self.step(state.last.ids[:, :kept], start, state.pending)[1] if kept else start

    def _layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def _embed(self, ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if inputs_embeds is not None:
            return inputs_embeds
        if ids is None:
            raise ValueError("forward needs ids or inputs_embeds")
        x: Tensor = self.input_embedding(ids)  # (B, T, D)
        if self.training and self.dropout_embedding:
            kept = F.dropout(x.new_ones(self.vocab_size, 1), self.dropout_embedding)
            x = x * F.embedding(ids, kept)  # (B, T, 1): 0 for a dropped word wherever it stands
        return x

    def _states(
        self,
        ids: Tensor | None,
        mask: Tensor | None,
        segment_ids: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> list[Tensor]:
        x = self._embed(ids, inputs_embeds)
        if mask is None and segment_ids is None:
            return self._read(x, None, None)[0]
        sequences = Sequences.of(x, mask, segment_ids)
        # Left to right, the padding after a sequence cannot reach it.
        states, _ = self._read(sequences.split(x), None, None if self.causal else sequences.lengths)
        return [sequences.join(state) for state in states]

    def _read(
        self, x: Tensor, memories: list[Memory] | None, lengths: Tensor | None
    ) -> tuple[list[Tensor], list[Memory]]:
        """x (B, T, D) -> the embedding and each layer's output, and what each layer carries on."""
        states = [self._drop(x, self.dropouts[0])]
        new_memories = []
        for i, layer in enumerate(self._layers()):
            y, memory = layer(states[-1], None if memories is None else memories[i], lengths)
            states.append(self._drop(y, self.dropouts[i + 1]))
            new_memories.append(memory)
        return states, new_memories

    def _drop(self, x: Tensor, rate: float) -> Tensor:
        if not (self.training and rate):
            return x
        if self.locked_dropout:
            return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), rate)
        return F.dropout(x, rate)


class Layer(nn.Module):
    """One recurrent layer: x (B, T, d_in) -> (B, T, d_out)."""

    def __init__(self, *, cell: Cell, d_in: int, d_out: int, causal: bool, weight_drop: float) -> None:
        super().__init__()
        self.cell = cell
        self.causal = causal
        self.width = d_out if causal else d_out // 2
        self.n_memories = 2 if cell == "lstm" else 1
        self.weight_drop = weight_drop
        self.kernel: nn.RNNBase
        match cell:
            case "lstm":
                self.kernel = nn.LSTM(d_in, self.width, batch_first=True, bidirectional=not causal)
            case "gru":
                self.kernel = nn.GRU(d_in, self.width, batch_first=True, bidirectional=not causal)
            case "rnn_tanh" | "rnn_relu":
                self.kernel = nn.RNN(
                    d_in,
                    self.width,
                    nonlinearity=cell.removeprefix("rnn_"),
                    batch_first=True,
                    bidirectional=not causal,
                )

    def init_weights(self) -> None:
        """By gate: input weights uniform (Glorot & Bengio 2010), recurrent orthogonal (Saxe et al. 2014).

        With relu the recurrence starts as the identity (Le et al. 2015); an LSTM's forget gate starts open,
        its bias 1 (Gers et al. 2000; Jozefowicz et al. 2015); other biases are 0.
        """
        for name, parameter in self.kernel.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
                if self.cell == "lstm" and name.startswith("bias_ih"):  # gates i, f, g, o; bias_hh adds 0
                    with torch.no_grad():
                        parameter[self.width : 2 * self.width] = 1.0
                continue
            for gate in parameter.detach().chunk(len(parameter) // self.width):  # views of the parameter
                if name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(gate)
                elif self.cell == "rnn_relu":
                    nn.init.eye_(gate)
                else:
                    nn.init.orthogonal_(gate)

    def forward(self, x: Tensor, memory: Memory | None, lengths: Tensor | None) -> tuple[Tensor, Memory]:
        """x (B, T, d_in) -> y (B, T, d_out) and the memory after each row's last real token.

        lengths (B,): how many tokens of each row are real, None for all T.
        """
        if (
            lengths is not None
            and memory is None
            and not self.causal
            and self.cell == "lstm"
            and x.device.type == "cpu"
        ):
            return self._both_ways(x, lengths), ()
        start: Tensor | Memory | None = None
        if memory is not None:
            start = tuple(part[None] for part in memory)  # (1, B, W)
            start = start if self.cell == "lstm" else start[0]
        if lengths is None:
            y, end = self._run(x, start)
        else:
            # A packed sequence has no empty rows; they read one token and forget it.
            lengths_read = lengths.clamp(min=1).cpu()
            packed = pack_padded_sequence(x, lengths_read, batch_first=True, enforce_sorted=False)
            packed_y, end = self._run(packed, start)
            y, _ = pad_packed_sequence(packed_y, batch_first=True, total_length=x.shape[1])
        kept = cast("Tensor", self.kernel.weight_hh_l0).dtype  # autocast's is too coarse to carry far
        ends = tuple(part[0].to(kept) for part in (end if self.cell == "lstm" else (end,)))
        if lengths is not None and memory is not None:
            read = (lengths > 0)[:, None]
            ends = tuple(torch.where(read, new, old) for new, old in zip(ends, memory, strict=True))
        return y, ends

    def _both_ways(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Each direction by itself, the second over rows turned round: (B, T, d_in) -> (B, T, d_out), padding zero.

        The CPU has a fused kernel for padded rows and none for packed ones: in training 1.3 to 2.3 times as fast.
        """
        place = torch.arange(x.shape[1])
        real = place < lengths[:, None]  # (B, T)
        turned = torch.where(real, lengths[:, None] - 1 - place, place)[:, :, None]  # (B, T, 1)
        weights = self._weights()
        half = len(weights) // 2
        nothing = x.new_zeros(1, len(x), self.width)

        def read(rows: Tensor, direction: list[Tensor]) -> Tensor:
            y: Tensor = torch.lstm(rows, [nothing, nothing], direction, True, 1, 0.0, self.training, False, True)[0]
            return y

        ahead = read(x, weights[:half])
        back = read(x.gather(1, turned.expand_as(x)), weights[half:])
        y = torch.cat([ahead, back.gather(1, turned.expand_as(back))], 2)
        return y * real[:, :, None]

    def _weights(self) -> list[Tensor]:
        """The kernel's weights by layer and direction, the hidden-to-hidden ones thinned out in training."""
        whole = cast("list[Tensor]", self.kernel._flat_weights)
        if not (self.training and self.weight_drop):
            return whole
        return [
            F.dropout(weight, self.weight_drop) if name.startswith("weight_hh") else weight
            for name, weight in zip(self.kernel._flat_weights_names, whole, strict=True)
        ]

    def _run(self, x: Any, start: Any) -> Any:
        """The kernel, its hidden-to-hidden weights thinned out in training."""
        if not (self.training and self.weight_drop):
            return self.kernel(x, start)
        # The kernel reads its weights from this list; its parameters stay what the optimizer knows.
        whole = self.kernel._flat_weights
        self.kernel._flat_weights = cast("list[Tensor | None]", self._weights())
        try:
            return self.kernel(x, start)
        finally:
            self.kernel._flat_weights = whole


@dataclass(frozen=True)
class Sequences:
    """Which real tokens of a batch (B, T) belong to one sequence: of one row and, when packed, one document.

    real (B, T) bool; run and place (M,): the sequence and the position in it of each of the M real tokens,
    row by row; lengths (R,).
    """

    real: Tensor
    run: Tensor
    place: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None, segment_ids: Tensor | None) -> Self:
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        row = real.nonzero()[:, 0]  # (M,)
        new = torch.ones_like(row, dtype=torch.bool)
        new[1:] = row[1:] != row[:-1]
        if segment_ids is not None:
            segment = segment_ids[real]
            new[1:] |= segment[1:] != segment[:-1]
        run = new.cumsum(0) - 1
        place = torch.arange(len(row), device=x.device) - new.nonzero()[:, 0][run]
        return cls(real, run, place, torch.bincount(run))

    def split(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (R, L, D), padded with zeros on the right."""
        apart = x.new_zeros(len(self.lengths), int(self.lengths.max()), x.shape[2])
        return apart.index_put((self.run, self.place), x[self.real])

    def join(self, apart: Tensor) -> Tensor:
        """The inverse of `split`: (R, L, D) -> (B, T, D), padding zero."""
        together = apart.new_zeros(*self.real.shape, apart.shape[2])
        return together.index_put((self.real,), apart[self.run, self.place])


@dataclass(frozen=True)
class LastStep:
    """Where the last step began, and the ids (B, T) it read."""

    memories: list[Memory]
    lengths: Tensor
    ids: Tensor


class RecurrentState(State):
    """What each layer carries on, after `lengths` tokens per row. Its tensors are never written in place.

    `last`: the step that led here, which `truncate` can undo in part; `pending` (B,): the tokens of it that
    the next step has to read again, None when there are none.
    """

    def __init__(
        self,
        memories: list[Memory],
        lengths: Tensor,
        last: LastStep | None = None,
        pending: Tensor | None = None,
    ) -> None:
        self.memories = memories
        self.lengths = lengths
        self.last = last
        self.pending = pending

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        memories: dict[int, list[Tensor]] = {}
        for name, tensor in tensors.items():
            if name != "lengths":
                memories.setdefault(int(name.split(".")[0]), []).append(tensor)
        return cls([tuple(memories[layer]) for layer in sorted(memories)], tensors["lengths"])

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs to go on from here, by name, without the way back to the last step."""
        if self.pending is not None:
            raise ValueError("a truncated state has tokens to read again; step it first")
        named = {
            f"{layer}.{part}": tensor
            for layer, memory in enumerate(self.memories)
            for part, tensor in enumerate(memory)
        }
        return {**named, "lengths": self.lengths}

    def reorder(self, index: Tensor) -> Self:
        return self._map(lambda tensor: tensor[index])

    def truncate(self, lengths: Tensor) -> Self:
        lengths = lengths.to(self.lengths)
        if torch.equal(lengths, self.lengths):
            return self
        first = self.lengths if self.last is None else self.last.lengths
        if self.last is None or bool(((lengths < first) | (lengths > self.lengths)).any()):
            raise ValueError(
                f"cannot truncate rows of {self.lengths.tolist()} tokens to {lengths.tolist()}: "
                f"the last step began at {first.tolist()}"
            )
        return type(self)(self.last.memories, lengths, self.last, lengths - first)

    def clone(self) -> Self:
        return self._map(torch.clone)

    def detach(self) -> Self:
        return self._map(Tensor.detach)

    def to(self, device: torch.device | str) -> Self:
        """The same state on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Change every tensor; each has the rows first."""

        def changed(memories: list[Memory]) -> list[Memory]:
            return [tuple(change(part) for part in memory) for memory in memories]

        last = self.last
        if last is not None:
            last = LastStep(changed(last.memories), change(last.lengths), change(last.ids))
        return type(self)(
            changed(self.memories),
            change(self.lengths),
            last,
            None if self.pending is None else change(self.pending),
        )
