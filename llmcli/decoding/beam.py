"""Beam search: the most probable texts found by building several side by side.

Shapes: R rows that are still searched, K beams of each, V vocabulary, C candidates of a row in a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from llmcli.decoding.base import GeneratingModel, Hypothesis
from llmcli.decoding.loop import check_prompts, kept_tokens, prefill
from llmcli.errors import InputError, LLMError

LengthPenalty = Literal["gnmt", "average"]


class Beam:
    """The `n_best` of the hypotheses that end while the `beams` best of those that do not are built on.

    A hypothesis of n new tokens, its end counted, scores log P / penalty(n): ((5 + n) / 6) ** alpha with length_penalty
    "gnmt" (Wu et al. 2016), n ** alpha with "average"; alpha 0 ranks by probability alone. One that ends is kept where
    it is among the `beams` best candidates of its step; those that `max_new_tokens` cut off rank behind all that ended.
    early_stopping: a row is done once as many have ended as there are beams; else when nothing that is left can still
    become better than the `n_best`.

    Raises InputError for sizes and names that cannot be.
    """

    def __init__(
        self, *, beams: int, n_best: int, length_penalty: LengthPenalty, alpha: float, early_stopping: bool
    ) -> None:
        if beams < 1:
            raise InputError(f"decoding.beams ({beams}) must be at least 1")
        if not 1 <= n_best <= beams:
            raise InputError(f"decoding.n_best ({n_best}) must be at least 1 and at most decoding.beams ({beams})")
        if length_penalty not in get_args(LengthPenalty):
            known = ", ".join(get_args(LengthPenalty))
            raise InputError(f"decoding.length_penalty ({length_penalty}) must be one of {known}")
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise InputError(f"decoding.alpha ({alpha}) must be at least 0", "0 ranks by probability alone")
        self.beams, self.n_best = beams, n_best
        self.length_penalty, self.alpha, self.early_stopping = length_penalty, alpha, early_stopping

    def penalty(self, length: int) -> float:
        base = (5 + length) / 6 if self.length_penalty == "gnmt" else length
        return float(base**self.alpha)

    @torch.inference_mode()
    def search(
        self,
        model: GeneratingModel,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: frozenset[int],
        max_new_tokens: int,
        generator: torch.Generator,
    ) -> list[list[Hypothesis]]:
        """See `Search.search`; nothing is drawn from `generator`.

        Raises:
            InputError: more beams than the vocabulary has ids, or more tokens than the model's window has room for.
            LLMError: the model's logits are not finite.
        """
        contexts = self._contexts(model, prompts, max_new_tokens)
        rows = [Row() for _ in contexts]
        searched = rows
        logits, state = prefill(model, contexts, max_new_tokens)  # (R, V)
        scores = logits.new_zeros(len(rows), 1)  # (R, K), one beam before the first token
        for length in range(1, max_new_tokens + 1):
            found = self._candidates(logits, scores, take=self.beams * (1 + len(end_ids)))
            for row, candidates in zip(searched, found, strict=True):
                self._extend(row, candidates, end_ids)
            going = [
                (place, row)
                for place, row in enumerate(searched)
                if length < max_new_tokens and not self._done(row, length, max_new_tokens)
            ]
            if not going:
                break
            index = [place * scores.size(1) + node.parent for place, row in going for node in row.live]
            ids = [node.token for _, row in going for node in row.live]
            scores = scores.new_tensor([[node.total for node in row.live] for _, row in going])
            searched = [row for _, row in going]
            state = state.reorder(torch.tensor(index, device=model.device))
            out = model.step(torch.tensor(ids, device=model.device)[:, None], state, last_only=True)
            logits, state = out.logits[:, -1].float(), out.state
        return [self._best(row) for row in rows]

    def _contexts(
        self, model: GeneratingModel, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[list[int]]:
        check_prompts(model, prompts, max_new_tokens)
        if self.beams > model.vocab_size:
            raise InputError(f"decoding.beams ({self.beams}) is above the {model.vocab_size} ids of the vocabulary")
        window = model.max_seq_len
        contexts = [list(prompt[len(prompt) - kept_tokens(len(prompt), window) :]) for prompt in prompts]
        longest = max(map(len, contexts))
        if window is not None and longest + max_new_tokens - 1 > window:  # the last token is not read any more
            raise InputError(
                f"beam search stays within what the model sees, {window} tokens: {longest} of the prompt and "
                f"{max_new_tokens} new ones are more",
                f"max_new_tokens={window + 1 - longest} fits; decoding=greedy and sample go on past it",
            )
        return contexts

    def _candidates(self, logits: Tensor, scores: Tensor, take: int) -> list[list[Node]]:
        """logits (R K, V), scores (R, K) -> the best continuations of each row, best first, at most `take`."""
        rows = len(scores)
        each = min(take, logits.size(1))
        own, tokens = logits.log_softmax(1).topk(each, dim=1)  # of one beam as many as could all be the row's best
        totals = (scores.view(-1, 1) + own).view(rows, -1)  # (R, K each)
        totals, places = totals.topk(min(take, totals.size(1)), dim=1)  # (R, take)
        own, tokens = (kind.view(rows, -1).gather(1, places) for kind in (own, tokens))
        # One transfer to the host; float64 holds every id exactly, MPS lacks it.
        wide = torch.float32 if logits.device.type == "mps" else torch.float64
        packed = torch.stack([kind.to(wide) for kind in (totals, own, places // each, tokens)], dim=2).tolist()
        if any(math.isnan(total) for row in packed for total, *_ in row):
            raise LLMError("the model's logits are not finite", hint="train with a lower learning rate")
        return [
            [Node(total, own, int(parent), int(token)) for total, own, parent, token in row if total > -math.inf]
            for row in packed
        ]

    def _extend(self, row: Row, candidates: Sequence[Node], end_ids: frozenset[int]) -> None:
        """Take a step's candidates as the row's beams, those that end and are among the best as ended."""
        before, row.live = row.live, []
        for rank, node in enumerate(candidates):
            if before:
                node.before = before[node.parent]
            if node.token not in end_ids:
                if len(row.live) < self.beams:
                    row.live.append(node)
            elif rank < self.beams:
                row.ended.append(self._hypothesis(node))
        row.ended.sort(key=lambda each: -each.score)
        del row.ended[self.beams :]
        if row.live:  # fewer than asked for are possible: the other places repeat one and count for nothing
            first = row.live[0]
            row.live += [Node(-math.inf, 0.0, first.parent, first.token)] * (self.beams - len(row.live))

    def _done(self, row: Row, length: int, max_new_tokens: int) -> bool:
        if not row.live:
            return True
        if self.early_stopping:
            return len(row.ended) == self.beams
        # a log-probability only falls, and the longest text divides it by most
        reachable = row.live[0].total / self.penalty(max_new_tokens)
        return len(row.ended) >= self.n_best and row.ended[self.n_best - 1].score >= reachable

    def _best(self, row: Row) -> list[Hypothesis]:
        cut_off = [self._hypothesis(node) for node in row.live if node.total > -math.inf]
        return [*row.ended, *sorted(cut_off, key=lambda each: -each.score)][: self.n_best]

    def _hypothesis(self, last: Node) -> Hypothesis:
        nodes: list[Node] = []
        node: Node | None = last
        while node is not None:
            nodes.append(node)
            node = node.before
        nodes.reverse()
        return Hypothesis(
            ids=[node.token for node in nodes],
            logprobs=[node.logprob for node in nodes],
            score=last.total / self.penalty(len(nodes)),
        )


@dataclass(slots=True)
class Node:
    """A token of a hypothesis. total: log-probability up to it; parent: which of the beams before it continues."""

    total: float
    logprob: float
    parent: int
    token: int
    before: Node | None = None


@dataclass(slots=True)
class Row:
    """What is known of one prompt: its `live` beams, and the best hypotheses that have `ended`; both best first."""

    live: list[Node] = field(default_factory=list)
    ended: list[Hypothesis] = field(default_factory=list)
