"""The floor beside taggers: the tag that a word has most often in the train split, for a new word that of most words.

Words as they are written; of tags that are equally frequent the first in the alphabet.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from llmcli.data.records import TaggedTokens
from llmcli.metrics.entities import marks_spans, spans_of


class TagFloor:
    """train: the sentences that it learns from."""

    def __init__(self, train: Iterable[TaggedTokens]) -> None:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        every: Counter[str] = Counter()
        for record in train:
            every.update(record.tags)
            for token, tag in zip(record.tokens, record.tags, strict=True):
                counts[token][tag] += 1
        self.names = sorted(every)
        self.usual = _most(every)
        self.tags = {token: _most(each) for token, each in counts.items()}

    def __call__(self, tokens: Sequence[str]) -> list[str]:
        return [self.tags.get(token, self.usual) for token in tokens]

    def figures(self, records: Iterable[TaggedTokens]) -> dict[str, float]:
        """Accuracy, and precision, recall and F1 of entities; where tags mark none the mean F1 of all tags."""
        right = words = 0
        hits, predicted, true = Counter[str](), Counter[str](), Counter[str]()
        entities = marks_spans(self.names)
        for record in records:
            tags = self(record.tokens)
            right += sum(one == other for one, other in zip(tags, record.tags, strict=True))
            words += len(tags)
            if entities:
                found, real = set(spans_of(tags)), set(spans_of(record.tags))
                hits.update(span.type for span in found & real)
                predicted.update(span.type for span in found)
                true.update(span.type for span in real)
            else:
                hits.update(one for one, other in zip(tags, record.tags, strict=True) if one == other)
                predicted.update(tags)
                true.update(record.tags)
        accuracy = {"accuracy": right / max(1, words)}
        if not entities:
            each = [2 * hits[name] / max(1, predicted[name] + true[name]) for name in self.names]
            return {**accuracy, "f1": sum(each) / max(1, len(each))}
        h, p, t = hits.total(), predicted.total(), true.total()
        return {**accuracy, "f1": 2 * h / max(1, p + t), "precision": h / max(1, p), "recall": h / max(1, t)}


def _most(counts: Counter[str]) -> str:
    return min(counts, key=lambda tag: (-counts[tag], tag), default="")
