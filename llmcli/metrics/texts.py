"""The contract of a figure that texts get beside their references, and how alike a set of texts is."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU
from torch import Tensor

from llmcli.metrics.base import Metric
from llmcli.metrics.overlap import ngrams

ORDER = 4  # of the n-grams of BLEU


class TextMetric(Metric):
    """A figure that is made of what each text adds to sums, so that it can be resampled by example."""

    @abstractmethod
    def each(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
        """What each text (N) adds beside its reference, (N, ...) by the names of `sums`."""


def self_bleu(texts: Sequence[Sequence[str]]) -> float | None:
    """Mean over the texts, of words, of BLEU with all others as references (Zhu et al. 2018), in percent: 100 where all
    are alike.

    Short texts count up to the n-grams they have, and n-grams that are nowhere are smoothed as sacrebleu does it. None
    for fewer than two texts.
    """
    if len(texts) < 2:
        return None
    counts = [[ngrams(text, n) for text in texts] for n in range(1, ORDER + 1)]  # by n, then by text
    most = [_two_highest(each) for each in counts]
    lengths = Counter(map(len, texts))
    scores = []
    for number, text in enumerate(texts):
        others = lengths - Counter([len(text)])
        correct = [
            sum(min(count, _beside(number, *known[ngram])) for ngram, count in each[number].items())
            for each, known in zip(counts, most, strict=True)
        ]
        found = BLEU.compute_bleu(
            correct,
            [each[number].total() for each in counts],
            sys_len=len(text),
            ref_len=min(others, key=lambda length: (abs(length - len(text)), length)),
            smooth_method="exp",
            effective_order=True,
        )
        scores.append(float(found.score))
    return sum(scores) / len(scores)


def _two_highest(counts: Sequence[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """N-gram -> how often it stands in the text that has it most, which that is, and in the next."""
    highest: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for number, each in enumerate(counts):
        for ngram, count in each.items():
            first, owner, second = highest.get(ngram, (0, -1, 0))
            highest[ngram] = (count, number, first) if count > first else (first, owner, max(second, count))
    return highest


def _beside(number: int, first: int, owner: int, second: int) -> int:
    """How often an n-gram stands in that text among all but `number` that has it most."""
    return second if owner == number else first
