"""Texts from codes that no text was read for: drawn at random, or on the way from one text to another.

Shapes: N codes, Z code width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from llmcli.decoding.base import BoundModel
from llmcli.errors import InputError


@runtime_checkable
class CodeModel(Protocol):
    """What makes a code of each text, (Z,), and writes texts from codes; besides what a `SourceModel` does.

    d_code: Z, 0 where there is no code. samples: codes that are drawn for each text when it is scored.
    """

    d_code: int
    samples: int

    def codes(self, sources: Sequence[Sequence[int]]) -> Tensor:
        """The ids of texts -> (N, Z)."""
        ...

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """Codes (N, Z) as they are spread over all texts. Raises InputError where nothing says how that is."""
        ...

    def write(self, codes: Tensor) -> BoundModel: ...


class FromCodes:
    """A `SourceModel` for codes (N, Z): its sources, `prompts`, are their numbers."""

    def __init__(self, model: CodeModel, codes: Tensor) -> None:
        self._model, self._codes = model, codes
        self.prompts = [[number] for number in range(len(codes))]

    def bind(self, sources: Sequence[Sequence[int]], *, attention: bool = False) -> BoundModel:
        return self._model.write(self._codes[[number for [number] in sources]])

    def check_sources(self, sources: Sequence[Sequence[int]]) -> None:
        """Every code can be written."""


@torch.inference_mode()
def drawn(model: CodeModel, count: int, *, seed: int) -> FromCodes:
    """`count` texts from nothing; the first ones are the same for any count. Raises InputError for a count below 1."""
    if count < 1:
        raise InputError(f"num_samples ({count}) must be at least 1")
    each = [model.drawn(1, torch.Generator().manual_seed(seed + number)) for number in range(count)]
    return FromCodes(model, torch.cat(each))


@torch.inference_mode()
def between(model: CodeModel, texts: Sequence[Sequence[int]], count: int) -> FromCodes:
    """`count` texts at equal steps on the straight line from the code of one text to that of another, both included.

    Raises InputError for other than two texts, and for a count below 2.
    """
    if len(texts) != 2:
        raise InputError(
            f"interpolate={count} goes from one text to another; there {'is' if len(texts) == 1 else 'are'} "
            f"{len(texts)}",
            '--prompt "one text" --prompt "another"',
        )
    if count < 2:
        raise InputError(f"interpolate ({count}) must be at least 2, the two texts among them")
    first, last = model.codes(texts)
    share = torch.linspace(0, 1, count, device=first.device)[:, None]
    return FromCodes(model, (1 - share) * first + share * last)
