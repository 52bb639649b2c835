"""The floor beside texts that are made of sources: the source itself, or of what is to be summarised a part of it.

Targets are taken for summaries where they are written in the script of their sources, of which half have at least
twice as many words. Of a conversation, one turn a line, stand the three longest turns (Gliwa et al. 2019), of other
texts the first three sentences (Nallapati et al. 2017).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from llmcli.data.records import TextPair
from llmcli.metrics.bootstrap import figures_of
from llmcli.metrics.decoded import TextScorer, evenly
from llmcli.text.scripts import NAMES, share, words

TAKEN = 3  # sentences or turns
TIMES = 2.0  # as many words in a source as in its target, from which on that is a summary
FIGURES = frozenset({"bleu", "bleu_lowercased", "chrf", "rouge1", "rouge2", "rougeL"})  # edits of long texts take long
MOST = 1000  # pairs, chosen evenly, by which the kind is told
_TURN = re.compile(r"\s*[^\s:：][^:：\n]{0,40}[:：]\s?\S")  # who speaks, and what
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？；])\s*|\n+")

Take = Callable[[str], str]


class TextFloor:
    """name: what stands for the texts of these pairs. Scored as the texts are, beside the same references."""

    def __init__(self, pairs: Sequence[TextPair], scorer: TextScorer) -> None:
        self.name, take = kind_of([pairs[number] for number in evenly(len(pairs), MOST)])
        self._scorer = scorer
        self._each = scorer.each([take(pair.source) for pair in pairs], only=FIGURES)

    def figures(self, without: Sequence[int] = ()) -> dict[str, float]:
        """By name, of all pairs but those of these numbers."""
        left_out = set(without)
        kept = [number for number in range(len(self._scorer.references)) if number not in left_out]
        found = figures_of(self._scorer.metrics, {name: value[kept] for name, value in self._each.items()})
        return {name: value for name, value in found.items() if name in FIGURES}


def kind_of(pairs: Sequence[TextPair]) -> tuple[str, Take]:
    """What the floor of such pairs is called, and how it is made of a source."""
    script = _script(pair.source for pair in pairs)
    times = median(len(words(pair.source)) / max(1, len(words(pair.target))) for pair in pairs)
    if times < TIMES or script is None or script != _script(pair.target for pair in pairs):
        return "the source as it is", str.strip
    if 2 * sum(_is_conversation(pair.source) for pair in pairs) > len(pairs):
        return f"the {TAKEN} longest turns of the source", longest_turns
    return f"the first {TAKEN} sentences of the source", first_sentences


def longest_turns(text: str) -> str:
    """In their order, with who speaks."""
    turns = _lines(text)
    longest = sorted(range(len(turns)), key=lambda number: -len(turns[number]))[:TAKEN]
    return " ".join(turns[number] for number in sorted(longest))


def first_sentences(text: str) -> str:
    sentences = [each.strip() for each in _SENTENCE.split(text) if each.strip()]
    between = "" if sentences and sentences[0][-1] in "。！？；" else " "
    return between.join(sentences[:TAKEN])


def _is_conversation(text: str) -> bool:
    lines = _lines(text)
    return len(lines) > 1 and all(_TURN.match(line) for line in lines[:TAKEN])


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _script(texts: Iterable[str]) -> str | None:
    """That of most letters, None of texts without."""
    text = " ".join(texts)
    shares = {name: share(text, (name,)) for name in NAMES}
    most = max(NAMES, key=shares.__getitem__)
    return most if shares[most] else None
