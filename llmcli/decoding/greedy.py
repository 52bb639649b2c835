"""Greedy decoding: the most probable token each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from llmcli.decoding.base import Emitted, GeneratingModel
from llmcli.decoding.loop import decode_tokens
from llmcli.decoding.penalties import Penalties


class Greedy:
    """argmax over the logits, after penalties; the lowest id wins a tie."""

    def __init__(self, *, penalties: Penalties) -> None:
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
        """See `Strategy.decode`; nothing is drawn."""
        return decode_tokens(
            model,
            prompts,
            _argmax,
            end_ids=end_ids,
            max_new_tokens=max_new_tokens,
            penalties=self.penalties,
        )


def _argmax(logits: Tensor, rows: Sequence[int]) -> Tensor:
    return logits.argmax(dim=-1)
