"""Sampling with temperature and the usual ways to cut the tail of the distribution.

Shapes: B batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llmcli.decoding.base import Emitted, GeneratingModel
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.loop import decode_tokens
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError

_BLOCK = 256  # random numbers drawn at once for each row
_HEADS = (256, 4096)  # most probable tokens among which the nucleus is looked for, before all are sorted


class Sample:
    """Penalties, then temperature, then top_k, top_p, min_p and typical_p, each on what the one before left.

    temperature: divides the logits; 0 is greedy. top_k: keep the k largest logits (and ties with the k-th).
    top_p: nucleus sampling (Holtzman et al. 2020), the smallest set with at least this probability. min_p
    (Nguyen et al. 2024): drop what is less probable than this fraction of the most probable. typical_p (Meister et al.
    2023): the smallest set with at least this probability of tokens whose surprise is nearest to the entropy. None
    switches a filter off.

    Every row draws from its own stream, so its text does not depend on the rows beside it.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(
        self,
        *,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        typical_p: float | None,
        penalties: Penalties,
    ) -> None:
        if not (temperature >= 0 and math.isfinite(temperature)):
            raise InputError(f"temperature ({temperature}) must be at least 0")
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k ({top_k}) must be at least 1", hint="top_k=null keeps every token")
        if top_p is not None and not 0 < top_p <= 1:
            raise InputError(f"top_p ({top_p}) must be above 0 and at most 1", hint="top_p=null keeps every token")
        if min_p is not None and not 0 <= min_p <= 1:
            raise InputError(f"min_p ({min_p}) must be between 0 and 1", hint="min_p=null keeps every token")
        if typical_p is not None and not 0 < typical_p <= 1:
            raise InputError(
                f"typical_p ({typical_p}) must be above 0 and at most 1", hint="typical_p=null keeps every token"
            )
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.min_p = min_p
        self.typical_p = typical_p
        self.penalties = penalties

    def decode(
        self,
        model: GeneratingModel,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: frozenset[int],
        max_new_tokens: int,
        seeds: Sequence[int],
    ) -> Iterator[Emitted]:
        """See `Strategy.decode`."""
        if self.temperature == 0:
            greedy = Greedy(penalties=self.penalties)
            return greedy.decode(model, prompts, end_ids=end_ids, max_new_tokens=max_new_tokens, seeds=seeds)
        numbers = row_uniforms(seeds, model.device)

        def choose(logits: Tensor, rows: Sequence[int]) -> Tensor:
            drawn = next(numbers)
            return draw(self.filter(logits), drawn if len(rows) == len(drawn) else drawn[list(rows)])

        return decode_tokens(
            model,
            prompts,
            choose,
            end_ids=end_ids,
            max_new_tokens=max_new_tokens,
            penalties=self.penalties,
        )

    def filter(self, logits: Tensor) -> Tensor:
        """logits (B, V) -> (B, V) divided by the temperature, with -inf for what is cut."""
        # The shift to a maximum of 0 keeps a tiny temperature from overflowing.
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            smallest_kept = logits.topk(self.top_k, dim=-1).values[:, -1:]  # (B, 1)
            logits = logits.masked_fill(logits < smallest_kept, -math.inf)
        if self.top_p is not None and self.top_p < 1:
            probs = logits.softmax(dim=-1)
            logits = logits.masked_fill(probs < _nucleus_floor(probs, self.top_p), -math.inf)
        if self.min_p is not None and self.min_p > 0:
            # p < min_p * p_max, as log-probabilities: the normaliser cancels
            floor = logits.amax(dim=-1, keepdim=True) + math.log(self.min_p)
            logits = logits.masked_fill(logits < floor, -math.inf)
        if self.typical_p is not None and self.typical_p < 1:
            logits = logits.masked_fill(~_typical(logits.log_softmax(dim=-1), self.typical_p), -math.inf)
        return logits


def row_seeds(seed: int, rows: int) -> list[int]:
    """A seed for each row that follows from `seed` and its number alone."""
    base = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(seed)))
    return [base + row for row in range(rows)]


def row_uniforms(seeds: Sequence[int], device: torch.device) -> Iterator[Tensor]:
    """Endless (B,) uniform numbers in [0, 1), of each row from a stream of its own.

    Drawn on the CPU, so that a seed gives the same numbers on every device.
    """
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        block = torch.stack([torch.rand(_BLOCK, generator=stream) for stream in streams])  # (B, block)
        yield from block.to(device).unbind(dim=1)


class Uniforms:
    """The numbers of `row_uniforms`, each row's from any place on."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._drawn = [torch.empty(0) for _ in seeds]
        self._device = device

    def at(self, rows: Sequence[int], places: Sequence[int], count: int) -> Tensor:
        """Of each of the B rows the `count` numbers from its place on, (B, count)."""
        for row, place in zip(rows, places, strict=True):
            while len(self._drawn[row]) < place + count:
                block = torch.rand(_BLOCK, generator=self._streams[row])
                self._drawn[row] = torch.cat((self._drawn[row], block))
        found = [self._drawn[row][place : place + count] for row, place in zip(rows, places, strict=True)]
        return torch.stack(found).to(self._device)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Inverse transform sampling: logits (B, V), uniform (B,) in [0, 1) -> ids (B,) of probability > 0."""
    # In float32 the sum over a large vocabulary would lose the smallest probabilities; MPS has nothing wider.
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = logits.softmax(dim=-1, dtype=wide).cumsum(dim=-1)  # (B, V)
    total = cumulative[:, -1:]
    # Strictly below the total, whatever rounding does, so that the search ends at a token that was not cut.
    point = torch.minimum(uniform[:, None].to(wide) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True)[:, 0]


def _nucleus_floor(probs: Tensor, top_p: float) -> Tensor:
    """probs (B, V) -> (B, 1), the smallest probability in the smallest set that holds at least `top_p`."""
    # On a CPU sorting a whole vocabulary costs more than all the rest here (of 49,152 tokens 3.5 ms, the 4,096 most
    # probable 0.6), and most nuclei lie in its head. Elsewhere looking whether this one does would wait for the device.
    for head in _HEADS:
        if probs.device.type == "cpu" and probs.shape[-1] > head:
            ordered = probs.topk(head, dim=-1).values
            if bool((ordered.sum(dim=-1) > top_p).all()):
                return _floor(ordered, top_p)
    return _floor(probs.sort(dim=-1, descending=True).values, top_p)


def _typical(logprobs: Tensor, mass: float) -> Tensor:
    """logprobs (B, V) -> (B, V) bool, the tokens nearest to the entropy that together have `mass`, one at least."""
    probs = logprobs.exp()
    entropy = -(probs * logprobs.where(probs > 0, 0.0)).sum(dim=-1, keepdim=True)  # (B, 1)
    order = (logprobs + entropy).abs().argsort(dim=-1, stable=True)  # what was cut before is infinitely far
    ordered = probs.gather(1, order)
    before = ordered.cumsum(dim=-1) - ordered
    kept = torch.zeros_like(probs, dtype=torch.bool)
    return kept.scatter(1, order, (before < mass) & (ordered > 0))


def _floor(ordered: Tensor, top_p: float) -> Tensor:
    """Of descending probabilities (B, n), the last before which less than `top_p` has come; the first at least."""
    before = ordered.cumsum(dim=-1) - ordered
    kept = (before < top_p).sum(dim=-1, keepdim=True).clamp(min=1)  # (B, 1)
    return ordered.gather(1, kept - 1)
