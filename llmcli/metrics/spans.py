"""How well answers that stand in a text are found: exact match and F1, by the rules of the scripts that sets come with.

In a text of Han characters and kana the rules of CMRC 2018 hold (Cui et al. 2019), in others those of SQuAD (Rajpurkar
et al. 2016, 2018). Of several right answers the best match counts; where there is none, no answer is the right one.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmcli.metrics.base import Mean, Metric
from llmcli.text.scripts import share

UNSPACED = ("Han", "Hiragana", "Katakana")
SHARE = 0.2  # of a text's letters: from here on it is scored by character
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_MARKS = str.maketrans("", "", string.punctuation)
# what CMRC 2018 takes away, and the dots of which its list has pairs alone
_CHINESE_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』")
_CHINESE_PARTS = re.compile(r"[\u4e00-\u9fa5]|[^\W\u4e00-\u9fa5]+|[^\w\s]")


def by_character(text: str) -> bool:
    """Whether answers in this text are scored by character."""
    return not text.isascii() and share(text, UNSPACED) >= SHARE


def match(answer: str, right: Sequence[str], *, characters: bool) -> tuple[float, float]:
    """Exact match (0 or 1) and F1 of an answer, "" for none, with the best of the right ones; without any, with "".

    characters: by the rules of CMRC 2018, else by those of SQuAD.
    """
    plain, overlap = (_plain_chinese, _chinese_f1) if characters else (_plain, _f1)
    right = [each for each in right if plain(each)] or [""]
    exact = max(float(plain(answer) == plain(each)) for each in right)
    return exact, max(overlap(answer, each) for each in right)


def _plain(text: str) -> str:
    """Without capitals, ASCII punctuation and articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_ASCII_MARKS)).split())


def _f1(answer: str, right: str) -> float:
    """Of the words that both have, however they stand; one of both empty: whether the other is too."""
    found, wanted = Counter(_plain(answer).split()), Counter(_plain(right).split())
    if not found or not wanted:
        return float(found == wanted)
    return _harmonic((found & wanted).total(), found.total(), wanted.total())


def _plain_chinese(text: str) -> str:
    return text.lower().strip().translate(_CHINESE_MARKS)


def _chinese_f1(answer: str, right: str) -> float:
    """Of the longest run that both have, in Han characters and in words of other scripts."""
    found, wanted = (_CHINESE_PARTS.findall(_plain_chinese(each)) for each in (answer, right))
    if not found or not wanted:
        return float(found == wanted)
    return _harmonic(_longest_common_run(found, wanted), len(found), len(wanted))


def _longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    longest, before = 0, [0] * (len(second) + 1)  # of the runs that end at the part before
    for part in first:
        ends = [0, *(run + 1 if part == other else 0 for run, other in zip(before, second, strict=False))]
        longest, before = max(longest, *ends), ends
    return longest


def _harmonic(common: int, found: int, wanted: int) -> float:
    """Of precision, common / found, and recall, common / wanted."""
    return 2 * common / (found + wanted)


class SpanMetric(Mean):
    """The mean of a sum over the examples that another one counts; no figure (nan) where there are none of those."""

    higher_is_better = True

    def compute(self) -> float | None:
        found = super().compute()
        return None if found is None or math.isnan(found) else found

    def figure(self, totals: Mapping[str, Any]) -> float:
        return super().figure(totals) if totals[self.sums[1]] > 0 else math.nan


class ExactMatch(SpanMetric):
    """Share of the questions whose answer is one of the right ones, but for what the rules overlook."""

    name = "exact_match"
    sums = ("exact", "questions")


class SpanF1(SpanMetric):
    """Mean over the questions of the overlap of the answer with the closest right one."""

    name = "f1"
    sums = ("overlap", "questions")


class AnswerableExactMatch(SpanMetric):
    """Exact match on the questions that have an answer."""

    name = "answerable_exact_match"
    sums = ("answerable_exact", "answerable")


class AnswerableF1(SpanMetric):
    """F1 on the questions that have an answer."""

    name = "answerable_f1"
    sums = ("answerable_overlap", "answerable")


class Unanswered(SpanMetric):
    """Share of the questions without an answer that get none."""

    name = "unanswerable_accuracy"
    sums = ("unanswered", "unanswerable")


SPAN_METRICS: tuple[Callable[[], Metric], ...] = (ExactMatch, SpanF1, AnswerableExactMatch, AnswerableF1, Unanswered)
