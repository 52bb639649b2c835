"""Minimum Bayes risk decoding: of texts drawn from the model the one that is most like the others.

Shapes: B prompts, N samples of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.decoding.base import GeneratingModel, Hypothesis, StepOutput, Stopped
from llmcli.decoding.sample import Sample, row_seeds
from llmcli.errors import InputError
from llmcli.models.base import State

ORDERS = (1, 2, 3, 4)  # of the n-grams that are compared, as in BLEU

Ngrams = tuple[Counter[tuple[int, ...]], ...]


class MinimumBayesRisk:
    """The `n_best` of `samples` drawn texts by their mean likeness to all of them (Eikema & Aziz 2020).

    Likeness is the mean F1 of token n-grams for n = 1 ... 4, so that nothing but the tokens is needed. What is drawn
    several times counts so often and is given once; score is the mean likeness.

    Raises InputError for sizes that cannot be.
    """

    looks_at_sources = False

    def __init__(self, *, samples: int, n_best: int, sampler: Sample) -> None:
        if samples < 2:
            raise InputError(f"decoding.samples ({samples}) must be at least 2")
        if not 1 <= n_best <= samples:
            raise InputError(f"decoding.n_best ({n_best}) must be at least 1 and at most decoding.samples ({samples})")
        self.samples, self.n_best, self.sampler = samples, n_best, sampler

    @torch.inference_mode()
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
        """See `Search.search`. All samples of all prompts are one batch."""
        rows = [list(prompt) for prompt in prompts for _ in range(self.samples)]
        drawn: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
        over = [False] * len(rows)
        steps = self.sampler.decode(
            Repeated(model, self.samples),
            rows,
            end_ids=end_ids,
            max_new_tokens=max_new_tokens,
            seeds=[each for seed in seeds for each in row_seeds(seed, self.samples)],
        )
        for emitted in steps:
            for row, (index, logprob) in enumerate(zip(emitted.ids, emitted.logprobs, strict=True)):
                if index is None or over[row]:
                    continue
                ids, logprobs = drawn[row]
                ids.append(index)
                logprobs.append(logprob)
                over[row] = index in end_ids or (stopped is not None and stopped(ids))
            if all(over):
                break
        starts = range(0, len(rows), self.samples)
        return [self._ranked(drawn[start : start + self.samples]) for start in starts]

    def _ranked(self, drawn: Sequence[tuple[list[int], list[float]]]) -> list[Hypothesis]:
        times = Counter(tuple(ids) for ids, _ in drawn)
        found = {text: ngrams(text) for text in times}
        logprobs = {tuple(ids): each for ids, each in drawn}
        scores = {
            text: sum(count * likeness(found[text], found[other]) for other, count in times.items()) / len(drawn)
            for text in times
        }
        best = sorted(times, key=lambda text: -scores[text])[: self.n_best]  # of equals the one drawn first
        return [Hypothesis(list(text), logprobs[text], scores[text]) for text in best]


def ngrams(text: Sequence[int]) -> Ngrams:
    return tuple(Counter(zip(*(text[start:] for start in range(n)), strict=False)) for n in ORDERS)


def likeness(one: Ngrams, other: Ngrams) -> float:
    """Mean over the orders of the F1 of n-grams in common, in [0, 1]; of orders longer than both texts none."""
    shares = [
        2 * (ours & theirs).total() / (ours.total() + theirs.total())
        for ours, theirs in zip(one, other, strict=True)
        if ours or theirs
    ]
    return sum(shares) / len(shares) if shares else 1.0


class Repeated:
    """The model with each of its rows `times` times: what a model that has read sources gives for rows beside them.

    Rows that have ended may be gone when a text is read anew past the window, which none of a source ever is.
    """

    def __init__(self, model: GeneratingModel, times: int) -> None:
        self.model, self.times = model, times
        self.vocab_size, self.max_seq_len = model.vocab_size, model.max_seq_len

    @property
    def device(self) -> torch.device:
        return self.model.device

    def init_state(self, batch_size: int, capacity: int) -> State:
        if batch_size % self.times:
            return self.model.init_state(batch_size, capacity)
        rows = torch.arange(batch_size // self.times, device=self.device)
        return self.model.init_state(len(rows), capacity).reorder(rows.repeat_interleave(self.times))

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None, *, last_only: bool = False) -> StepOutput:
        return self.model.step(ids, state, lengths, last_only=last_only)
