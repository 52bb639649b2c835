"""Greedy decoding: the most probable token each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llmcli.decoding.base import Emitted, GeneratingModel
from llmcli.decoding.loop import check_penalty, decode_tokens


class Greedy:
    """argmax over the logits; the lowest id wins a tie.

    repetition_penalty: 1.0 is none, see `loop.penalise`. Raises InputError if it is not above 0.
    """

    def __init__(self, *, repetition_penalty: float) -> None:
        check_penalty(repetition_penalty)
        self.repetition_penalty = repetition_penalty

    def decode(
        self,
        model: GeneratingModel,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: frozenset[int],
        max_new_tokens: int,
        generator: torch.Generator,
    ) -> Iterator[Emitted]:
        """See `Strategy.decode`; nothing is drawn from `generator`."""
        return decode_tokens(
            model,
            prompts,
            _argmax,
            end_ids=end_ids,
            max_new_tokens=max_new_tokens,
            repetition_penalty=self.repetition_penalty,
        )


def _argmax(logits: Tensor) -> Tensor:
    return logits.argmax(dim=-1)
