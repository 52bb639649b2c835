"""Linear-chain conditional random field (Lafferty et al. 2001), the last layer of a tagger (Lample et al. 2016).

With s_t the scores of the tags of word t, A the transitions, b and e what it is worth to begin and to end with a tag:

    score(y) = b[y_1] + sum_t s_t[y_t] + sum_t A[y_t-1, y_t] + e[y_T]
    log p(y) = score(y) - log sum_y' exp score(y')

Decisions: sums are kept as logarithms, and added up as one matrix product a word after the largest was taken out, which
is three to six times as fast as `logsumexp` over all pairs; those that would underflow are left to it. Gradients are
the marginals, which a second recursion from the end gives in closed form, so that autograd records nothing.

Shapes: B sentences, W words of the longest, C tags. real (B, W) bool: words, which stand before all padding. A row
without a word counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LOST = 1e-30  # a sum below it, of terms of at most 1, may have lost others to the smallest float


class Potentials(NamedTuple):
    """What tags are worth beside the words: start (C,), transitions (C, C) from row to column, end (C,).

    -inf forbids; every tag must be able to follow some tag that can stand there.
    """

    start: Tensor
    transitions: Tensor
    end: Tensor

    def allowing(self, start: Tensor, transitions: Tensor) -> Potentials:
        """The same, with all but what the masks start (C,) and transitions (C, C) allow forbidden."""
        return Potentials(
            self.start.masked_fill(~start, -torch.inf), self.transitions.masked_fill(~transitions, -torch.inf), self.end
        )


class CRF(nn.Module):
    """The potentials as parameters, zero in the beginning: then it is a softmax for each word."""

    def __init__(self, n_tags: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(n_tags))
        self.transitions = nn.Parameter(torch.zeros(n_tags, n_tags))
        self.end = nn.Parameter(torch.zeros(n_tags))

    @property
    def potentials(self) -> Potentials:
        return Potentials(self.start, self.transitions, self.end)


def allowed_in_iob2(names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Which tags may begin a sentence (C,), and which may follow which (C, C): I-X only after B-X and I-X."""
    inside = torch.tensor([name.startswith("I-") for name in names])
    follows = torch.tensor([[one[:2] in ("B-", "I-") and one[2:] == other[2:] for other in names] for one in names])
    return ~inside, ~inside | follows


def path_scores(scores: Tensor, tags: Tensor, real: Tensor, potentials: Potentials) -> Tensor:
    """scores (B, W, C), tags (B, W) -> the score of each sentence's tags (B,); those of padding mean nothing."""
    start, transitions, end = potentials
    tags = tags.masked_fill(~real, 0)
    own = scores.gather(2, tags.unsqueeze(2)).squeeze(2)  # (B, W)
    pairs = transitions[tags[:, :-1], tags[:, 1:]]  # (B, W - 1)
    last = tags.gather(1, (real.sum(1, keepdim=True) - 1).clamp(min=0)).squeeze(1)  # (B,)
    ends = (start[tags[:, 0]] + end[last]).masked_fill(~real[:, 0], 0.0)
    return ends + own.masked_fill(~real, 0.0).sum(1) + pairs.masked_fill(~real[:, 1:], 0.0).sum(1)


def log_partition(scores: Tensor, real: Tensor, potentials: Potentials) -> Tensor:
    """scores (B, W, C) -> log of the summed exp(score) of all taggings (B,), differentiable once."""
    found: Tensor = _LogPartition.apply(scores, real, *potentials)  # type: ignore[no-untyped-call]
    return found


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, real: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> Tensor:
        potentials = Potentials(start, transitions, end)
        alphas = forward_sums(scores, real, potentials)
        total = (alphas[:, -1] + end).logsumexp(1)  # (B,)
        ctx.save_for_backward(scores, real, alphas, total, *potentials)
        return total.masked_fill(~real[:, 0], 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scores, real, alphas, total, *potentials = ctx.saved_tensors
        start, transitions, end = potentials
        betas = backward_sums(scores, real, Potentials(start, transitions, end))
        share = real * grad.unsqueeze(1)  # (B, W)
        at = (alphas + betas - total[:, None, None]).exp() * share.unsqueeze(2)  # (B, W, C)
        # a pair's marginals are left_i E_ij right_j, up to what makes them sum to 1
        following = scores[:, 1:] + betas[:, 1:]  # (B, W - 1, C)
        left, right = _scaled(alphas[:, :-1])[0], _scaled(following)[0]
        products = transitions.exp()
        whole = ((left @ products) * right).sum(2)
        lost = (whole < LOST) & real[:, 1:]  # the largest of both sides do not go together
        left = left * (share[:, 1:] / whole).masked_fill(whole < LOST, 0.0).unsqueeze(2)
        between = products * (left.flatten(0, 1).T @ right.flatten(0, 1))
        if bool(lost.any()):
            rows = lost.nonzero()[:, 0]
            pairs = alphas[:, :-1][lost].unsqueeze(2) + transitions + following[lost].unsqueeze(1)  # (N, C, C)
            between += ((pairs - total[rows, None, None]).exp() * share[:, 1:][lost][:, None, None]).sum(0)
        is_last = real & ~F.pad(real[:, 1:], (0, 1))
        return at, None, at[:, 0].sum(0), between, (at * is_last.unsqueeze(2)).sum((0, 1))


def forward_sums(scores: Tensor, real: Tensor, potentials: Potentials) -> Tensor:
    """(B, W, C): log of the summed exp(score) of all beginnings that end with this tag at this word.

    Beyond the last word it stays what it was there.
    """
    start, transitions, _ = potentials
    products = transitions.exp()
    found = [start + scores[:, 0]]
    for word in range(1, scores.size(1)):
        sums = _log_product(found[-1], transitions, products) + scores[:, word]
        found.append(torch.where(real[:, word, None], sums, found[-1]))
    return torch.stack(found, 1)


def backward_sums(scores: Tensor, real: Tensor, potentials: Potentials) -> Tensor:
    """(B, W, C): log of the summed exp(score) of all that may follow this tag at this word, without the word itself."""
    _, transitions, end = potentials
    transitions = transitions.T
    products = transitions.exp()
    found = [end.expand(scores.size(0), -1)]
    for word in range(scores.size(1) - 1, 0, -1):
        sums = _log_product(scores[:, word] + found[-1], transitions, products)
        found.append(torch.where(real[:, word, None], sums, found[-1]))
    return torch.stack(found[::-1], 1)


def _scaled(logs: Tensor) -> tuple[Tensor, Tensor]:
    """exp(logs - top), and top, the maximum of the last dimension: none overflows, the largest is 1."""
    top = logs.amax(-1, keepdim=True)
    return (logs - top).exp(), top


def _log_product(logs: Tensor, transitions: Tensor, products: Tensor) -> Tensor:
    """log(exp(logs) @ products): logs (B, C), transitions (C, C) and their exp, products (C, C)."""
    scaled, top = _scaled(logs)
    sums = scaled @ products
    found = sums.log() + top
    if bool((lost := sums < LOST).any()):  # all that leads there is far below the largest, which does not
        rows = lost.any(1)
        exact = (logs[rows].unsqueeze(2) + transitions).logsumexp(1)
        found[rows] = torch.where(lost[rows], exact, found[rows])
    return found


def viterbi(scores: Tensor, real: Tensor, potentials: Potentials) -> Tensor:
    """scores (B, W, C) -> the tags of the highest score (B, W), -1 for padding (Viterbi 1967)."""
    start, transitions, end = potentials
    by_column = transitions.T.contiguous()
    itself = torch.arange(scores.size(2), device=scores.device)
    best, before = start + scores[:, 0], []
    for word in range(1, scores.size(1)):
        top, origin = (best.unsqueeze(1) + by_column).max(2)
        best = torch.where(real[:, word, None], top + scores[:, word], best)
        before.append(torch.where(real[:, word, None], origin, itself))  # (B, C)
    tag = (best + end).argmax(1, keepdim=True)
    tags = [tag]
    for origin in reversed(before):
        tag = origin.gather(1, tag)
        tags.append(tag)
    return torch.cat(tags[::-1], 1).masked_fill(~real, -1)


class Marginals:
    """Probabilities of tags and of spans, for one batch: scores (B, W, C), by forward and backward sums."""

    def __init__(self, scores: Tensor, real: Tensor, potentials: Potentials) -> None:
        self.scores, self.real, self.potentials = scores, real, potentials
        self.alphas = forward_sums(scores, real, potentials)
        self.betas = backward_sums(scores, real, potentials)
        self.total = (self.alphas[:, -1] + potentials.end).logsumexp(1)  # (B,)

    def tags(self) -> Tensor:
        """(B, W, C): how probable each tag is at each word; what stands at padding means nothing."""
        return (self.alphas + self.betas - self.total[:, None, None]).exp()

    def span(self, row: int, first: int, tags: Sequence[int], *, not_after: Sequence[int]) -> float:
        """How probable it is that these tags stand from word `first` on, and none of `not_after` behind them."""
        _, transitions, end = self.potentials
        score = self.alphas[row, first, tags[0]]
        for word, (one, other) in enumerate(pairwise(tags), start=first + 1):
            score = score + transitions[one, other] + self.scores[row, word, other]
        after = first + len(tags)
        if after < int(self.real[row].sum()):
            following = transitions[tags[-1]] + self.scores[row, after] + self.betas[row, after]  # (C,)
            others = torch.tensor(not_after, dtype=torch.int64, device=following.device)
            score = score + following.index_fill(0, others, -torch.inf).logsumexp(0)
        else:
            score = score + end[tags[-1]]
        return float((score - self.total[row]).exp())
