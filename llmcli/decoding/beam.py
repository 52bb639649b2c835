"""Beam search: the most probable texts found by building several side by side.

Shapes: R rows that are still searched, G groups of beams, K beams of a group, S source tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from llmcli.decoding.base import GeneratingModel, Hypothesis, Stopped
from llmcli.decoding.candidates import Node, Step
from llmcli.decoding.loop import check_prompts, kept_tokens, prefill
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError

LengthPenalty = Literal["gnmt", "average"]


class Beam:
    """The `n_best` of the hypotheses that end while the `beams` best of those that do not are built on.

    A hypothesis of n new tokens, its end counted, scores log P / penalty(n): ((5 + n) / 6) ** alpha with length_penalty
    "gnmt" (Wu et al. 2016), n ** alpha with "average"; alpha 0 ranks by probability alone. coverage: weight of the sum
    over the source tokens of log min(1, attention that the whole text gave them), which is added (Wu et al. 2016), so
    that a text that left something out ranks lower; 0 for models without a source. penalties: what they take from
    a logit is taken from the log-probability. One that ends is kept where it is among the `beams` best candidates of
    its step; those that `max_new_tokens` cut off rank behind all that ended. early_stopping: a row is done once as many
    have ended as there are beams; else when nothing that is left can still become better than the `n_best`.

    Raises InputError for sizes and names that cannot be.
    """

    groups: int = 1  # see `diverse_beam`
    diversity: float = 0.0

    def __init__(
        self,
        *,
        beams: int,
        n_best: int,
        length_penalty: LengthPenalty,
        alpha: float,
        early_stopping: bool,
        coverage: float = 0.0,  # these two have defaults for the configs of runs that are older than they
        penalties: Penalties | None = None,
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
        if not (coverage >= 0 and math.isfinite(coverage)):
            raise InputError(f"decoding.coverage ({coverage}) must be at least 0", "0 does without")
        self.beams, self.n_best = beams, n_best
        self.length_penalty, self.alpha, self.early_stopping = length_penalty, alpha, early_stopping
        self.coverage, self.penalties = coverage, penalties

    @property
    def looks_at_sources(self) -> bool:
        return self.coverage > 0

    @property
    def width(self) -> int:
        """The beams of a group."""
        return self.beams // self.groups

    @property
    def _totals_fall(self) -> bool:
        """Whether no token can add to what a hypothesis has: not so with penalties that make tokens likelier."""
        held = self.penalties
        return held is None or (held.repetition >= 1 and held.frequency >= 0 and held.presence >= 0)

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
        seeds: Sequence[int],
        stopped: Stopped | None = None,
    ) -> list[list[Hypothesis]]:
        """See `Search.search`; nothing is drawn.

        Raises:
            InputError: more beams than the vocabulary has ids, more tokens than the model's window has room for, or
                coverage of a model that looks at no source.
            LLMError: the model's logits are not finite.
        """
        contexts = self._contexts(model, prompts, max_new_tokens)
        held = None
        if self.penalties is not None:
            held = self.penalties.begin(prompts, model.vocab_size, model.device, end_ids=end_ids)
        rows = [[Group() for _ in range(self.groups)] for _ in contexts]
        searched = rows
        out = prefill(model, contexts, max_new_tokens)
        covered = _uncovered(out.attention) if self.coverage else None  # (R G K, S)
        totals = torch.zeros(len(rows), 1, device=model.device)  # (R, G K), one beam before the first token
        take = self.width * (1 + len(end_ids))
        for length in range(1, max_new_tokens + 1):
            if covered is not None and out.attention is not None:
                covered += out.attention[:, :, -1].float().mean(1)
            step = Step.of(out, held, totals)
            missed = None if covered is None else covered.clamp(max=1).log().sum(1).view_as(totals).tolist()  # (R, G K)
            taken: list[list[int]] = [[] for _ in searched]  # by the groups before
            for number in range(self.groups):
                found = step.candidates(number, self.groups, take, taken, self.diversity)
                for place, (row, candidates) in enumerate(zip(searched, found, strict=True)):
                    if not row[number].done:
                        self._extend(row[number], candidates, end_ids, stopped, missed and missed[place])
                        row[number].done = self._done(row[number], length, max_new_tokens)
                        taken[place] += [node.token for node in row[number].live if node.total > -math.inf]
            going = [(place, row) for place, row in enumerate(searched) if not all(group.done for group in row)]
            if length == max_new_tokens or not going:
                break
            if 8 * len(going) > 7 * len(searched):  # to leave the batch costs a copy of what the others have read
                going = list(enumerate(searched))
            beams = [(place, node) for place, row in going for number in range(self.groups)
                     for node in row[number].continued(number * totals.size(1) // self.groups, self.width)]  # fmt: skip
            index = [place * totals.size(1) + node.parent for place, node in beams]
            ids = [node.token for _, node in beams]
            if held is not None:
                held = held.reorder(index)
                held.add(ids)
            picked = torch.tensor(index)
            totals = totals.new_tensor([node.total for _, node in beams]).view(len(going), self.beams)
            covered = None if covered is None else covered[picked]
            searched = [row for _, row in going]
            state = out.state.reorder(picked)
            out = model.step(torch.tensor(ids, device=model.device)[:, None], state, last_only=True)
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

    def _extend(
        self,
        group: Group,
        candidates: Sequence[Node],
        end_ids: frozenset[int],
        stopped: Stopped | None,
        missed: Sequence[float] | None,
    ) -> None:
        """Take a step's candidates as the group's beams, those that end and are among the best as ended.

        missed: for each beam of the row before this step the logarithms that `coverage` weighs.
        """
        before, group.live = group.live, []
        for rank, node in enumerate(candidates):
            if before:
                node.before = before[node.parent % self.width]
            if missed is not None:
                node.coverage = self.coverage * missed[node.parent]
            if node.token not in end_ids and not (stopped is not None and stopped(node.ids())):
                if len(group.live) < self.width:
                    group.live.append(node)
            elif rank < self.width:
                group.ended.append(self._hypothesis(node))
        group.ended.sort(key=lambda each: -each.score)
        del group.ended[self.width :]
        if group.live:  # fewer than asked for are possible: the other places repeat one and count for nothing
            first = group.live[0]
            group.live += [Node(-math.inf, 0.0, first.parent, first.token)] * (self.width - len(group.live))

    def _done(self, group: Group, length: int, max_new_tokens: int) -> bool:
        if not group.live:
            return True
        if self.early_stopping:
            return len(group.ended) == self.width
        if not self._totals_fall:
            return False
        # the longest text divides what it has by most, and no coverage is above nothing missed
        reachable = max(node.total for node in group.live) / self.penalty(max_new_tokens)
        wanted = min(self.n_best, self.width)
        return len(group.ended) >= wanted and group.ended[wanted - 1].score >= reachable

    def _best(self, row: Sequence[Group]) -> list[Hypothesis]:
        ended = [found for group in row for found in group.ended]
        cut_off = [self._hypothesis(node) for group in row for node in group.live if node.total > -math.inf]
        ranked = [found for kind in (ended, cut_off) for found in sorted(kind, key=lambda each: -each.score)]
        several = {tuple(found.ids): found for found in reversed(ranked)}  # groups may find the same
        return [found for found in ranked if several[tuple(found.ids)] is found][: self.n_best]

    def _hypothesis(self, last: Node) -> Hypothesis:
        nodes = last.path()
        return Hypothesis(
            ids=[node.token for node in nodes],
            logprobs=[node.logprob for node in nodes],
            score=last.total / self.penalty(len(nodes)) + last.coverage,
        )


@dataclass(slots=True)
class Group:
    """Beams that are searched together: `live` ones, and the best hypotheses that have `ended`; both best first."""

    live: list[Node] = field(default_factory=list)
    ended: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    def continued(self, first: int, width: int) -> list[Node]:
        """The next step's beams. Of a group that is done, while others of its row go on, what counts for nothing.

        first: where its beams begin in the row.
        """
        return [Node(-math.inf, 0.0, first, 0)] * width if self.done else self.live


def _uncovered(attention: Tensor | None) -> Tensor:
    """attention of the first step (R, H, 1, S) -> (R, S): nothing is looked at yet, and padding need not be."""
    if attention is None:
        raise InputError("decoding.coverage is for models that look at a source", "decoding.coverage=0")
    return (attention[:, :, -1] == 0).all(1).float()
