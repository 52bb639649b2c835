"""A causal backbone that translates: the source stands before the target, as one text (Liu et al. 2018, section 4.2.3).

Shapes: B rows, S source tokens, T target tokens, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from llmcli.models.base import Backbone, State
from llmcli.models.encoder_decoder import Memory


class PrefixReader:
    """What `EncoderDecoder` offers to decoding, of a causal backbone: `encode`, `init_state`, `step`."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def encode(self, source: Tensor, mask: Tensor | None = None) -> PrefixMemory:
        """source (B, S) int64, mask (B, S) bool -> memory; it is read where the target begins, with room for both."""
        return PrefixMemory(self.backbone.input_embedding(source), mask, source)

    def init_state(self, memory: Memory, capacity: int) -> PrefixState:
        """After the sources, before the first target token, for at most `capacity` of them in each row."""
        assert isinstance(memory, PrefixMemory)
        rows, longest = memory.source.shape
        lengths = None if memory.mask is None else memory.mask.sum(1)
        _, state = self.backbone.step(memory.source, self.backbone.init_state(rows, longest + capacity), lengths)
        return PrefixState(state, torch.full_like(memory.source[:, 0], longest) if lengths is None else lengths)

    def step(
        self, ids: Tensor, state: State, lengths: Tensor | None = None, *, weights: list[Tensor] | None = None
    ) -> tuple[Tensor, PrefixState]:
        """Target ids (B, T) -> hidden (B, T, D), new state; as `Backbone.step`.

        weights: takes nothing, a backbone does not say where it looks.
        """
        assert isinstance(state, PrefixState)
        hidden, inner = self.backbone.step(ids, state.inner, lengths)
        return hidden, PrefixState(inner, state.before)


@dataclass(frozen=True, slots=True)
class PrefixMemory(Memory):
    """source (B, S): ids that are still to be read; hidden (B, S, E): their embeddings."""

    source: Tensor


class PrefixState(State):
    """The backbone's own state, in which `before` (B,) tokens are the source's; `lengths` count those of the target."""

    def __init__(self, inner: State, before: Tensor) -> None:
        self.inner, self.before = inner, before

    @property
    def lengths(self) -> Tensor:  # type: ignore[override]
        return self.inner.lengths - self.before

    def reorder(self, index: Tensor) -> Self:
        return type(self)(self.inner.reorder(index), self.before[index])

    def truncate(self, lengths: Tensor) -> Self:
        return type(self)(self.inner.truncate(lengths + self.before), self.before)

    def clone(self) -> Self:
        return type(self)(self.inner.clone(), self.before)  # never written in place

    def detach(self) -> Self:
        return type(self)(self.inner.detach(), self.before)
