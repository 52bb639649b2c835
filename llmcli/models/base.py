"""What every backbone offers to tasks, heads and decoding.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from llmcli.errors import InputError

Kind = Literal[
    "attention",
    "recurrent",
    "window",
    "convolution",
    "average",
    "counts",
    "terms",
    "encoder_decoder",
    "autoencoder",
    "word_vectors",
]


def check_sizes(**sizes: int) -> None:
    """Raise InputError for the first size below 1: `n_layers (-2) must be at least 1`."""
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} ({size}) must be at least 1")


def check_both_ways(model: Backbone, *, causal: bool, task: str) -> None:
    """Raise InputError for a model that only reads forward, or is asked to."""
    if causal:
        raise InputError(f"task={task} reads in both directions and needs task.causal=false")
    if model.causal:
        raise InputError(
            f"task={task} reads in both directions, and the model only forward",
            "model.causal=false, with weights that learned to read forward where they come from such a run",
        )


def check_rates(**rates: float) -> None:
    """Raise InputError for the first dropout rate outside [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise InputError(f"{name} ({rate}) must be at least 0 and below 1")


class GrownBuffers(nn.Module):
    """A module whose buffers got their sizes from the data that it was fitted to: a state_dict loads into a new one."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, buffer.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


class State(ABC):
    """What a model remembers between two calls of `step`: a KV cache, an LSTM cell. Opaque to decoding.

    `lengths` (B,) int64 counts the tokens that each row has consumed.
    """

    lengths: Tensor

    @abstractmethod
    def reorder(self, index: Tensor) -> Self:
        """Rows picked by `index` (B',), on the CPU or the device, as beam search needs; B' may differ from B.

        The given state is spent: use the returned one.
        """

    @abstractmethod
    def truncate(self, lengths: Tensor) -> Self:
        """Forget everything after the first `lengths` (B,) tokens of each row, as speculative decoding needs.

        A recurrent state can go back no further than the start of its last `step`; ValueError otherwise.
        """

    @abstractmethod
    def clone(self) -> Self:
        """An independent copy: stepping one leaves the other as it was."""

    @abstractmethod
    def detach(self) -> Self:
        """The same state cut from the graph, for truncated back-propagation through time."""


class Backbone(nn.Module, ABC):
    """ids (B, T) -> hidden (B, T, d_model).

    `causal`: hidden at t depends on ids up to t alone. `max_seq_len`: the longest T, None where there is no
    limit. `tie_embeddings`: the language-model head shares `input_embedding.weight`.
    """

    kind: ClassVar[Kind]
    causal: bool
    d_model: int
    vocab_size: int
    max_seq_len: int | None
    input_embedding: nn.Embedding
    tie_embeddings: bool = False
    logit_softcap: float | None = None
    head_bias: bool = False
    steps_by_kernel: bool = False  # where the CPU has the kernel and `settle` was called

    @abstractmethod
    def forward(
        self,
        ids: Tensor | None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """ids (B, T) int64 -> hidden (B, T, D).

        mask (B, T) bool, True is a real token. segment_ids (B, T): packed documents, attention and recurrence
        stay inside one. inputs_embeds (B, T, D) replaces the embedding look-up of ids.
        """

    @abstractmethod
    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Every layer's output (B, T, D), the embedding first."""

    @abstractmethod
    def init_weights(self) -> None:
        """Initialise as the family's paper does (called by the constructor)."""

    def parameter_depths(self) -> dict[str, int]:
        """The layer of each parameter: 0 the embedding, which is all that is made before the `blocks` (or `layers`),
        then those, with the last of them what is made after it; without any, all but embeddings is one layer."""
        names = [name for name, _ in self.named_parameters()]
        blocks = {name: re.match(r"(?:blocks|layers)\.(\d+)\.", name) for name in names}
        if not any(blocks.values()):
            return {name: int("embedding" not in name.partition(".")[0]) for name in names}
        found, depth = {}, 0
        for name, block in blocks.items():
            depth = int(block[1]) + 1 if block else depth
            found[name] = depth
        return found

    def init_head(self, weight: Tensor) -> None:
        """Initialise an untied head's weight (V, D); families with another practice override."""
        nn.init.normal_(weight, std=0.02)

    def fuse(self) -> None:
        """Change into the form that computes the same with fewer and larger products, where there is one: one way, for
        inference alone. The state_dict is another then, and dropout is gone."""
        return

    def settle(self) -> None:
        """The weights have their last form: from now on `step` may rely on where they lie."""
        return

    @abstractmethod
    def init_state(self, batch_size: int, capacity: int) -> State:
        """An empty state for `batch_size` rows of at most `capacity` tokens."""

    @abstractmethod
    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Consume ids (B, T) after what `state` holds -> hidden (B, T, D), new state.

        lengths (B,): the real tokens of each row, the rest being padding on the right whose hidden is
        meaningless and which the state does not remember; None: all T. The given state is spent: use the
        returned one.
        """


class WordVectorModel(nn.Module, ABC):
    """Gives each id of a vocabulary a vector (D,), learned from batches of its own kind (`task=word_vectors`).

    `learns_from`: what its batches hold, as a data module's `gives` says. `loss_unit`: of the loss of one target.
    `sparse`: whether gradients hold the rows of a batch alone, which not every optimizer can use.
    """

    kind: ClassVar[Kind] = "word_vectors"
    learns_from: ClassVar[str]
    loss_unit: ClassVar[str]
    vocab_size: int
    d_model: int
    sparse: bool
    input_embedding: nn.Embedding

    def begin(self, *, words: Sequence[str], tokens: int) -> None:
        """Told before training: the word of each id, "" for one that is none, and the tokens of the training text."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """The summed loss of a batch, and over how many targets it is a sum."""

    @abstractmethod
    def word_vectors(self) -> Tensor:
        """The result: the vector of each id, (V, D)."""

    def outside(self, word: str) -> Tensor | None:
        """A vector (D,) for a word outside the vocabulary; None where the model has none."""
        return None


class EncoderOnly(Backbone):
    """A backbone whose hidden states look both ways or have no order, so that it generates nothing.

    Raises InputError where it shall be causal.
    """

    never_causal: ClassVar[bool] = True

    def __init__(self, *, causal: bool, name: str) -> None:
        super().__init__()
        if causal:
            raise InputError(f"model={name} generates nothing and cannot be causal", "it goes with task=classification")
        self.causal = False

    def embed(
        self, ids: Tensor | None, mask: Tensor | None, segment_ids: Tensor | None, inputs_embeds: Tensor | None
    ) -> Tensor:
        """The token embeddings (B, T, E), zero where nothing real stands. Raises ValueError for packed documents."""
        if segment_ids is not None:
            raise ValueError(f"{type(self).__name__} reads one text a row, not packed documents")
        if inputs_embeds is None:
            assert ids is not None, "ids or inputs_embeds"
            inputs_embeds = self.input_embedding(ids)
        return inputs_embeds if mask is None else inputs_embeds * mask.unsqueeze(-1)

    def init_state(self, batch_size: int, capacity: int) -> State:
        raise NotImplementedError(f"{type(self).__name__} generates nothing")

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        raise NotImplementedError(f"{type(self).__name__} generates nothing")
