"""The seam between models and decoding: strategies see `step`, the prompts and the end ids, and nothing else.

Shapes: B batch, T time, D model width, V vocabulary, H heads, S source positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from llmcli.models.base import State


@dataclass(frozen=True, slots=True)
class StepOutput:
    """logits (B, T, V), or (B, 1, V) at each row's last real token with last_only; hidden (B, T or 1, D).

    attention (B, H, T or 1, S): what the heads of all layers give to each source token, above 0 there and 0 at padding;
    None unless asked for. allowed (B, V): what a rule lets come next, None: everything.
    """

    logits: Tensor
    hidden: Tensor
    attention: Tensor | None
    state: State
    allowed: Tensor | None = None

    def last(self) -> tuple[Tensor, Tensor]:
        """Logits of the next token in float32, (B, V) each: with -inf for what is not allowed, and as they are, which
        the model's own probabilities follow from."""
        own = self.logits[:, -1].float()
        return own if self.allowed is None else own.masked_fill(~self.allowed, -math.inf), own


class GeneratingModel(Protocol):
    """What a strategy needs of a model: an RNN, a GPT and a translator look the same from here."""

    vocab_size: int
    max_seq_len: int | None

    @property
    def device(self) -> torch.device: ...

    def init_state(self, batch_size: int, capacity: int) -> State: ...

    def step(
        self, ids: Tensor, state: State, lengths: Tensor | None = None, *, last_only: bool = False
    ) -> StepOutput: ...


@dataclass(frozen=True, slots=True)
class Emitted:
    """One more token for each row, None for rows that had ended before or got fewer in this step of the model.

    logprobs: natural log of the model's own probability (before rules, penalties, temperature, filters) of each id.
    steps: of the model that were taken for it, 0 where it came out of the same one as the token before.
    """

    ids: list[int | None]
    logprobs: list[float]
    steps: int = 1


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A continuation that a search has found.

    ids: the new tokens, last the end id or what completes a stop text, where it ended. logprobs: as of `Emitted`.
    score: what the search ranks by.
    """

    ids: list[int]
    logprobs: list[float]
    score: float


class Strategy(Protocol):
    """A way to choose one token after the other, each known as soon as it is chosen. One per file and YAML."""

    def decode(
        self,
        model: GeneratingModel,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: frozenset[int],
        max_new_tokens: int,
        seeds: Sequence[int],
    ) -> Iterator[Emitted]:
        """Continue each prompt (at least one id each, lengths may differ); a row ends after an end id.

        seeds: of each row's own random numbers, so that its text depends on no other row.
        """
        ...


@runtime_checkable
class Drafting(Protocol):
    """A strategy that guesses up to `draft_tokens` tokens of a text, which one step of the model checks together."""

    draft_tokens: int


@runtime_checkable
class NeedsDraft(Protocol):
    """A strategy that another run guesses for: `draft` names it, if the user has, and `use` takes its model before
    anything is decoded."""

    draft: str | None

    def use(self, model: GeneratingModel) -> None: ...


@runtime_checkable
class Search(Protocol):
    """A strategy that knows its result only at the end. One per file and YAML.

    looks_at_sources: needs `StepOutput.attention`.
    """

    @property
    def looks_at_sources(self) -> bool: ...

    def search(
        self,
        model: GeneratingModel,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: frozenset[int],
        max_new_tokens: int,
        seeds: Sequence[int],
        stopped: Stopped | None = None,
    ) -> list[list[Hypothesis]]:
        """The best continuations of each prompt, best first, at least one. stopped: where they end before an end id."""
        ...


Stopped = Callable[[Sequence[int]], bool]  # whether the text of these new ids holds a stop text


class BoundModel(GeneratingModel, Protocol):
    """A model that has read sources. starts: the prompts to continue into their targets, one for each source."""

    starts: list[list[int]]


@runtime_checkable
class SourceModel(Protocol):
    """What turns one text into another: `bind` reads the ids of sources, the rest is generation as ever.

    attention: each step gives what it looks at, in `StepOutput.attention`.
    """

    def bind(self, sources: Sequence[Sequence[int]], *, attention: bool = False) -> BoundModel: ...

    def check_sources(self, sources: Sequence[Sequence[int]]) -> None:
        """Raises InputError for the first source that `bind` cannot read, by its number from 1."""
        ...
