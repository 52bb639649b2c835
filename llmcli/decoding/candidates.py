"""A step of beam search: from what the model says of the next token to the best continuations of each row.

Shapes: R rows that are still searched, G groups of beams, K beams of a group, V vocabulary, C candidates of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from llmcli.decoding.base import StepOutput
from llmcli.decoding.penalties import Rows
from llmcli.errors import LLMError

_BLOCK = 64  # ids of a large vocabulary that are compared as one first


@dataclass(slots=True)
class Node:
    """A token of a hypothesis. total: log-probability up to it, less penalties; logprob: the model's own of the token;
    parent: which of the row's beams before it continues; coverage: what that adds to the score.
    """

    total: float
    logprob: float
    parent: int
    token: int
    before: Node | None = None
    coverage: float = 0.0

    def path(self) -> list[Node]:
        """The nodes from the first token to this one."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.before
        return nodes[::-1]

    def ids(self) -> list[int]:
        return [node.token for node in self.path()]


@dataclass(frozen=True, slots=True)
class Step:
    """What the model says of the next token: logprobs (R, G K, V), its own; scores (R, G K, V), the same less penalties
    and -inf where a rule forbids it, which makes nothing else likelier; totals (R, G K), of what each beam has."""

    logprobs: Tensor
    scores: Tensor
    totals: Tensor

    @classmethod
    def of(cls, out: StepOutput, held: Rows | None, totals: Tensor) -> Self:
        logits, own = out.last()
        logprobs = own.log_softmax(dim=-1)
        if held is not None:
            scores = held.adjust(logits) - own.logsumexp(dim=-1, keepdim=True)
        else:
            scores = logprobs if out.allowed is None else logprobs.masked_fill(~out.allowed, -math.inf)
        return cls(logprobs.view(*totals.shape, -1), scores.view(*totals.shape, -1), totals)

    def candidates(
        self, number: int, groups: int, take: int, taken: Sequence[Sequence[int]], diversity: float
    ) -> list[list[Node]]:
        """The best continuations of a group in each row, best first, at most `take`.

        taken: tokens that other groups of each row continue with; each time costs `diversity` in the ranking.
        """
        n_rows, n_beams, n_ids = self.logprobs.shape
        width = n_beams // groups if n_beams > 1 else 1  # before the first token all groups continue the same
        start = number * width if n_beams > 1 else 0
        ours = slice(start, start + width)
        scores, totals = self.scores[:, ours], self.totals[:, ours]
        ranked = scores
        if diversity and any(taken):
            places = [(row, token) for row, tokens in enumerate(taken) for token in tokens]
            at = torch.tensor(places, device=scores.device).unbind(1)
            costs = scores.new_full((len(places), width), -diversity)
            ranked = scores.clone()
            ranked.transpose(1, 2).index_put_(at, costs, accumulate=True)
        values, tokens = top(ranked.reshape(-1, n_ids), min(take, n_ids))  # of one beam as many as could all be best
        values = values.view(n_rows, width, -1) + totals[:, :, None]  # (R, K, C)
        best = values.flatten(1).topk(min(take, values[0].numel()), dim=1).indices  # (R, C)
        beam, tokens = best // values.size(2), tokens.view(n_rows, -1).gather(1, best)
        row = torch.arange(n_rows, device=best.device)[:, None]
        own = self.logprobs[:, ours][row, beam, tokens]
        total = scores[row, beam, tokens] + totals[row, beam]
        # One transfer to the host; float64 holds every id exactly, MPS lacks it.
        wide = torch.float32 if best.device.type == "mps" else torch.float64
        packed = torch.stack([kind.to(wide) for kind in (total, own, beam + start, tokens)], dim=2).tolist()
        if any(math.isnan(total) for found in packed for total, *_ in found):
            raise LLMError("the model's logits are not finite", hint="train with a lower learning rate")
        return [
            [Node(total, own, int(parent), int(token)) for total, own, parent, token in found if total > -math.inf]
            for found in packed
        ]


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, (N, V) -> values and places (N, k).

    Of a large vocabulary they are looked for in the k blocks with the largest maxima, which hold them all: on a CPU
    a fifth of the time of `topk` over everything.
    """
    n_blocks = scores.size(1) // _BLOCK
    if n_blocks < 2 * k:
        values, places = scores.topk(k, dim=1)
        return values, places
    blocked = scores[:, : n_blocks * _BLOCK].view(len(scores), n_blocks, _BLOCK)  # (N, blocks, BLOCK)
    blocks = blocked.amax(2).topk(k, dim=1).indices  # (N, k)
    looked = blocked.gather(1, blocks[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    values, at = torch.cat((looked, scores[:, n_blocks * _BLOCK :]), 1).topk(k, dim=1)
    inside = blocks.gather(1, (at // _BLOCK).clamp(max=k - 1)) * _BLOCK + at % _BLOCK
    return values, torch.where(at < k * _BLOCK, inside, at - k * _BLOCK + n_blocks * _BLOCK)
