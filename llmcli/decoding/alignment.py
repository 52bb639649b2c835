"""What the tokens of a target looked at in its source.

Shapes: B rows, T target tokens, S source tokens, H heads of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.decoding.base import SourceModel


@dataclass(frozen=True, slots=True)
class Aligned:
    """source: place of the source token that a target token looked at most; weight: how much of it went there."""

    source: int
    weight: float


def attention(
    model: SourceModel, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> list[Tensor] | None:
    """Of each pair the mean of `attention_of_heads`, (T, S + 1)."""
    found = attention_of_heads(model, sources, targets)
    return None if found is None else [each.mean(0) for each in found]


@torch.inference_mode()
def attention_of_heads(
    model: SourceModel, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> list[Tensor] | None:
    """Of each pair what was looked at while each target token was chosen, (H, T, S + 1), layer by layer; the last
    column is the end of the source. None of a model that looks at none.

    Raises InputError as `check_sources`.
    """
    bound = model.bind(sources, attention=True)
    longest = max(map(len, targets))
    if longest == 0:
        return [torch.zeros(1, 0, len(source) + 1) for source in sources]
    texts = [[*start, *target] for start, target in zip(bound.starts, targets, strict=True)]
    first = len(bound.starts[0]) - 1  # what reads this chooses the first token
    ids = torch.zeros(len(texts), first + longest, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text) - 1] = torch.tensor(text[:-1])
    lengths = torch.tensor([len(text) - 1 for text in texts]).clamp(min=1)
    state = bound.init_state(len(texts), ids.size(1))
    out = bound.step(ids.to(bound.device), state, lengths.to(bound.device))
    if out.attention is None:
        return None
    pairs = zip(out.attention[:, :, first:].cpu(), targets, sources, strict=True)
    return [each[:, : len(target), : len(source) + 1] for each, target, source in pairs]


def align(
    model: SourceModel, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], forced: Sequence[int] = ()
) -> list[list[Aligned]]:
    """Of each pair, for each target token the source token that it looked at most, its end apart, which is where heads
    look that look at nothing. forced: what stood before each target.
    """
    looked = attention(model, sources, [[*forced, *target] for target in targets])
    found: list[list[Aligned]] = []
    for weights in looked or ():
        most, places = weights[len(forced) :, :-1].max(1)
        found.append([Aligned(place, weight) for place, weight in zip(places.tolist(), most.tolist(), strict=True)])
    return found or [[] for _ in sources]
