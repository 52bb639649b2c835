"""How much of a reference a text repeats (ROUGE), and how much a set of texts repeats itself (distinct-n).

Words are runs of ASCII letters and digits in lower case, as the rouge-score package has them, and every Chinese or
Japanese character is a word of its own, which that package would drop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_WORD = re.compile(r"[a-z0-9]+|[\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufad9\U00020000-\U000323af]")


class Overlap(NamedTuple):
    """Shares of what was predicted, of what was asked for, and their harmonic mean."""

    precision: float
    recall: float
    f1: float


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def readable(texts: Sequence[str]) -> bool:
    """Whether `words` sees at least half of the letters and digits: hardly any of those of Russian or Korean."""
    alphanumeric = sum(each.isalnum() for text in texts for each in text)
    return 2 * sum(len(word) for text in texts for word in words(text)) >= alphanumeric


def rouge_n(predicted: Sequence[str], reference: Sequence[str], n: int) -> Overlap:
    """ROUGE-n (Lin 2004): n-grams in common, each as often as it stands in both."""
    ours, theirs = ngrams(predicted, n), ngrams(reference, n)
    return _overlap((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(predicted: Sequence[str], reference: Sequence[str]) -> Overlap:
    """ROUGE-L (Lin 2004): the longest common subsequence of the whole texts."""
    return _overlap(longest_common_subsequence(predicted, reference), len(predicted), len(reference))


def rouge(predicted: str, reference: str) -> dict[str, Overlap]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of a text beside its reference, without stemming."""
    ours, theirs = words(predicted), words(reference)
    return {"rouge1": rouge_n(ours, theirs, 1), "rouge2": rouge_n(ours, theirs, 2), "rougeL": rouge_l(ours, theirs)}


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams among all n-grams of all texts (Li et al. 2016); 0 where there are none."""
    found = Counter[tuple[str, ...]]()
    for text in texts:
        found.update(ngrams(text, n))
    return len(found) / found.total() if found else 0.0


def ngrams(text: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(text[start:] for start in range(n)), strict=False))


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Its length, by the bits of one integer for each word of `other` (Hyyrö 2004): no table of both lengths."""
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    free = (1 << len(one)) - 1  # places of `one` that end no longer subsequence than those before them
    for word in other:
        matching = free & places.get(word, 0)
        free = (free + matching) | (free - matching)
    return len(one) - (free & ((1 << len(one)) - 1)).bit_count()


def _overlap(common: int, predicted: int, reference: int) -> Overlap:
    precision, recall = common / max(1, predicted), common / max(1, reference)
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0)
