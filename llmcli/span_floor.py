"""Floors beside answers in texts: the most frequent answer, and the words that most resemble the question."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from llmcli.data.records import QuestionAnswer
from llmcli.metrics.spans import by_character, match
from llmcli.text.segment.base import UNSPACED

_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


class SpanFloor:
    """What can be said without learning to read.

    majority: the most frequent answer of the train split, "" where most often there is none. Otherwise the answer is as
    many words long as the median answer, and stands where most of the question's words are, weighted by how rare they
    are in contexts (inverse document frequency); "" where none of them is.
    """

    def __init__(self, train: Iterable[QuestionAnswer]) -> None:
        answers: Counter[str] = Counter()
        documents: Counter[str] = Counter()
        lengths, self.contexts = [], 0
        before = None
        for record in train:
            answers[record.answers[0] if record.answers else ""] += 1
            lengths += [len(_WORD.findall(record.answers[0]))] if record.answers else []
            if record.context != before:  # questions about a text stand one after the other
                documents.update(set(_words(record.context)))
                self.contexts += 1
            before = record.context
        self.majority = answers.most_common(1)[0][0]
        self.length = max(1, round(median(lengths))) if lengths else 1
        self.documents = documents

    def most_alike(self, record: QuestionAnswer) -> str:
        places = [found.span() for found in _WORD.finditer(record.context)]
        asked = set(_words(record.question))
        worth = [self._worth(word) if word in asked else 0.0 for word in _words(record.context)]
        if not any(worth):
            return ""
        length = min(self.length, len(worth))
        sums = [sum(worth[start : start + length]) for start in range(len(worth) - length + 1)]
        best = max(range(len(sums)), key=sums.__getitem__)
        return record.context[places[best][0] : places[best + length - 1][1]]

    def _worth(self, word: str) -> float:
        return math.log((1 + self.contexts) / (1 + self.documents[word])) + 1

    def figures(self, scored: Sequence[QuestionAnswer]) -> Mapping[str, float]:
        """Exact match and F1 of the words most alike, and as `majority_...` of the most frequent answer."""
        names = ("exact_match", "f1", "majority_exact_match", "majority_f1")
        totals = [0.0] * len(names)
        for record in scored:
            characters = by_character(record.context)
            both = (self.most_alike(record), self.majority)
            found = [each for answer in both for each in match(answer, record.answers, characters=characters)]
            totals = [total + more for total, more in zip(totals, found, strict=True)]
        return {name: total / max(1, len(scored)) for name, total in zip(names, totals, strict=True)}


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
