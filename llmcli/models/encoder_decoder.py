"""What a backbone that reads one text and writes another offers to tasks and decoding.

Shapes: B rows, S source tokens, T target tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from llmcli.models.base import Kind, State, check_sizes


@dataclass(frozen=True, slots=True)
class Memory:
    """What an encoder made of its sources; a model may put more into one of its own.

    hidden (B, S, D); mask (B, S) bool, True is a real token, None where nothing is padding.
    """

    hidden: Tensor
    mask: Tensor | None


class EncoderDecoder(nn.Module, ABC):
    """source (B, S), target (B, T) -> hidden (B, T, d_model), at t from all of the source and the target up to t.

    The target is padded on the right, where no real position looks, so that it needs no mask. `max_seq_len`: the
    longest S and the longest T, None where there is no limit. `vocab_size`: of the target. `input_embedding`: of the
    source; `target_embedding`: of the target, which may be the same; with `tie_embeddings` the head shares its weight.
    """

    kind: ClassVar[Kind] = "encoder_decoder"
    d_model: int
    vocab_size: int
    max_seq_len: int | None
    input_embedding: nn.Embedding
    target_embedding: nn.Embedding
    tie_embeddings: bool

    @abstractmethod
    def encode(self, source: Tensor, mask: Tensor | None = None) -> Memory:
        """source (B, S) int64, mask (B, S) bool with at least one real token a row -> what `decode` looks at."""

    @abstractmethod
    def decode(self, target: Tensor, memory: Memory) -> Tensor:
        """target (B, T) int64, beginning with what stands before its first token -> hidden (B, T, D)."""

    def forward(self, source: Tensor, mask: Tensor | None, target: Tensor) -> Tensor:
        return self.decode(target, self.encode(source, mask))

    @abstractmethod
    def init_weights(self) -> None:
        """Initialise as the family's paper does (called by the constructor)."""

    @abstractmethod
    def init_head(self, weight: Tensor) -> None:
        """Initialise an untied head's weight (V, D)."""

    @abstractmethod
    def init_state(self, memory: Memory, capacity: int) -> State:
        """Before the first target token, for at most `capacity` of them in each row of `memory`.

        What the decoder makes of the memory alone is computed here, once. `reorder` picks rows together with their
        sources, as often as wanted.
        """

    @abstractmethod
    def step(
        self, ids: Tensor, state: State, lengths: Tensor | None = None, *, weights: list[Tensor] | None = None
    ) -> tuple[Tensor, State]:
        """Consume target ids (B, T) after what `state` holds -> hidden (B, T, D), new state; as `Backbone.step`.

        weights: takes, of each layer that looks at the source, what it gives to each token there, (B, H, T, S): above 0
        at every token, 0 at padding. None costs nothing.
        """


def embeddings(
    *, vocab_size: int, source_vocab_size: int | None, d_model: int, share: bool
) -> tuple[nn.Embedding, nn.Embedding]:
    """The tables of source and target. source_vocab_size: of sources that have a vocabulary, and so a table, of their
    own; None: both have the same vocabulary, and with `share` the same table."""
    if source_vocab_size is not None:
        check_sizes(source_vocab_size=source_vocab_size)
    source = nn.Embedding(vocab_size if source_vocab_size is None else source_vocab_size, d_model)
    one = share and source_vocab_size is None
    return source, source if one else nn.Embedding(vocab_size, d_model)
