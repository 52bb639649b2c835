"""What stands in a row already makes tokens less likely, or impossible, in what follows.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from llmcli.errors import InputError


class Penalties:
    """Changes of the logits, in this order; none of them with 1.0, 0.0, 0.0 and 0.

    repetition: tokens of the prompt, less ends of texts, or the text (Keskar et al. 2019), see `penalise`. frequency,
    presence: subtracted from the logits of tokens of the text, so much for each time that they stand there, and so much
    once.
    no_repeat_ngram: runs of so many tokens that stand in prompt and text never come a second time (Paulus et al. 2018),
    as long as anything else is possible.

    Raises InputError for values outside their range.
    """

    def __init__(self, *, repetition: float, frequency: float, presence: float, no_repeat_ngram: int) -> None:
        if not (repetition > 0 and math.isfinite(repetition)):
            raise InputError(f"penalties.repetition ({repetition}) must be above 0", "1.0 switches it off")
        for name, value in (("frequency", frequency), ("presence", presence)):
            if not math.isfinite(value):
                raise InputError(f"penalties.{name} ({value}) must be a finite number", "0.0 switches it off")
        if no_repeat_ngram < 0:
            raise InputError(f"penalties.no_repeat_ngram ({no_repeat_ngram}) must be at least 0", "0 switches it off")
        self.repetition, self.frequency, self.presence = repetition, frequency, presence
        self.no_repeat_ngram = no_repeat_ngram

    def begin(
        self,
        prompts: Sequence[Sequence[int]],
        vocab_size: int,
        device: torch.device,
        *,
        end_ids: frozenset[int] = frozenset(),
    ) -> Rows | None:
        """What the rows hold before the first new token; None where nothing is penalised."""
        if (self.repetition, self.frequency, self.presence, self.no_repeat_ngram) == (1.0, 0.0, 0.0, 0):
            return None
        return Rows(self, prompts, vocab_size, device, end_ids)


class Rows:
    """The tokens of each row, as far as the penalties that are asked for depend on them."""

    def __init__(
        self,
        penalties: Penalties,
        prompts: Sequence[Sequence[int]],
        vocab_size: int,
        device: torch.device,
        end_ids: frozenset[int],
    ) -> None:
        self.penalties = penalties
        self.seen: Tensor | None = None  # (B, V), in prompt or text
        self.counts: Tensor | None = None  # (B, V), how often in the text
        if penalties.repetition != 1.0:
            seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
            for row, prompt in enumerate(prompts):
                seen[row, [number for number in prompt if number not in end_ids]] = True
            self.seen = seen.to(device)
        if (penalties.frequency, penalties.presence) != (0.0, 0.0):
            self.counts = torch.zeros(len(prompts), vocab_size, device=device)
        self.followed = [Followed(penalties.no_repeat_ngram, prompt) for prompt in prompts]

    def adjust(self, logits: Tensor) -> Tensor:
        """logits (B, V) float32 -> (B, V), a new tensor."""
        asked = self.penalties
        logits = logits.clone() if self.seen is None else penalise(logits, self.seen, asked.repetition)
        if self.counts is not None:
            logits -= asked.frequency * self.counts + asked.presence * (self.counts > 0)
        places = [(row, number) for row, followed in enumerate(self.followed) for number in followed.next()]
        if places:
            rows, banned = torch.tensor(places, device=logits.device).unbind(1)
            without = logits.index_put((rows, banned), logits.new_tensor(-math.inf))
            logits = torch.where(torch.isinf(without).all(1, keepdim=True), logits, without)
        return logits

    def add(self, ids: Sequence[int | None]) -> None:
        """One more token for each row but those of None."""
        added = [(row, number) for row, number in enumerate(ids) if number is not None]
        rows, numbers = [row for row, _ in added], [number for _, number in added]
        if self.seen is not None:
            self.seen[rows, numbers] = True
        if self.counts is not None:
            self.counts[rows, numbers] += 1
        for row, number in added:
            self.followed[row].add(number)

    def reorder(self, index: Sequence[int]) -> Self:
        """Rows picked by `index`, as beam search needs; independent of these."""
        picked = object.__new__(type(self))
        picked.penalties = self.penalties
        where = torch.tensor(list(index))
        picked.seen = None if self.seen is None else self.seen[where]
        picked.counts = None if self.counts is None else self.counts[where]
        picked.followed = [self.followed[row].copy() for row in index]
        return picked


class Followed:
    """Which tokens came after each run of n - 1 tokens of one row; of n = 0 nothing is kept."""

    def __init__(self, n: int, tokens: Sequence[int]) -> None:
        self.n = n
        self.last: tuple[int, ...] = ()
        self.after: dict[tuple[int, ...], tuple[int, ...]] = {}
        for number in tokens:
            self.add(number)

    def add(self, number: int) -> None:
        if not self.n:
            return
        if len(self.last) == self.n - 1:
            self.after[self.last] = (*self.after.get(self.last, ()), number)
        self.last = (*self.last, number)[-(self.n - 1) :] if self.n > 1 else ()

    def next(self) -> tuple[int, ...]:
        """What would make a run that stands there already."""
        return self.after.get(self.last, ()) if self.n and len(self.last) == self.n - 1 else ()

    def copy(self) -> Self:
        copied = type(self)(self.n, ())
        copied.last, copied.after = self.last, dict(self.after)
        return copied


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty of CTRL (Keskar et al. 2019), logits (B, V), seen (B, V) bool -> (B, V).

    The paper divides the logits of tokens seen before by the penalty. That would make a token with a negative
    logit more likely, so a negative one is multiplied.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
