"""How well spans of words are found: entities in IOB2, as the CoNLL script counts them (Tjong Kim Sang 2003).

An entity is found when its first word, its last and its type are right. A tag I-X that goes on with nothing (after O,
B-Y, I-Y, or at the beginning) counts as B-X, as in conlleval and seqeval.

Shapes: B sentences, W words, C tags, E types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llmcli.metrics.base import Metric
from llmcli.metrics.classification import per_class
from llmcli.metrics.text import Accuracy


class Span(NamedTuple):
    """Words [start, end) of a sentence."""

    start: int
    end: int
    type: str


def marks_spans(names: Sequence[str]) -> bool:
    """Whether tags are IOB2, and not one for each word as parts of speech are."""
    return all(name == "O" or name[:2] in ("B-", "I-") for name in names) and any(name != "O" for name in names)


def types_of(names: Sequence[str]) -> tuple[str, ...]:
    """The types of entities among the tags, in alphabetical order."""
    return tuple(sorted({name[2:] for name in names if name != "O"}))


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence, from left to right."""
    found: list[Span] = []
    before = "O"
    for word, tag in enumerate(tags):
        if tag != "O":
            if tag.startswith("I-") and before[2:] == tag[2:] and before != "O":
                found[-1] = found[-1]._replace(end=word + 1)
            else:
                found.append(Span(word, word + 1, tag[2:]))
        before = tag
    return found


class EntityCounts:
    """Counts of entities in batches of tags (B, W), without leaving the device.

    names: the tags; others, such as -1 or -100 where nothing is, are outside of all entities.
    """

    def __init__(self, names: Sequence[str]) -> None:
        types = types_of(names)
        self.types = types
        outside = len(types)
        # one more tag for what is none
        self.type = torch.tensor([outside if name == "O" else types.index(name[2:]) for name in [*names, "O"]])
        self.begins = torch.tensor([name.startswith("B-") for name in [*names, "O"]])

    def __call__(self, predicted: Tensor, true: Tensor) -> dict[str, Tensor]:
        """predicted, true (B, W) -> hits, predicted and true entities of each type, (B, E) by these names."""
        type_p, first_p, end_p = self._spans(predicted)
        type_t, first_t, end_t = self._spans(true)
        hits = first_p & first_t & (type_p == type_t) & (end_p == end_t)
        return {
            "hits": self._by_type(hits, type_t),
            "predicted": self._by_type(first_p, type_p),
            "true": self._by_type(first_t, type_t),
        }

    def _spans(self, tags: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, W) each: the type, whether an entity begins here, and where the one that stands here ends."""
        tags = torch.where(tags < 0, len(self.begins) - 1, tags)
        types, begins = self.type.to(tags.device)[tags], self.begins.to(tags.device)[tags]
        same = torch.zeros_like(begins)
        same[:, 1:] = types[:, 1:] == types[:, :-1]
        inside = types < len(self.types)
        goes_on = inside & same & ~begins
        # the end is the next place where nothing goes on
        place = torch.arange(1, tags.size(1) + 1, device=tags.device).expand_as(tags)
        stops = ~goes_on.roll(-1, 1)
        stops[:, -1] = True
        ends = place.masked_fill(~stops, tags.size(1) + 1).flip(1).cummin(1).values.flip(1)
        return types, inside & ~goes_on, ends

    def _by_type(self, which: Tensor, types: Tensor) -> Tensor:
        places = torch.arange(len(self.types), device=types.device)
        return ((types.unsqueeze(2) == places) & which.unsqueeze(2)).sum(1)  # (B, E)


class EntityMetric(Metric):
    """A figure of the three counts (E,), over all types together."""

    higher_is_better = True
    sums = ("hits", "predicted", "true")

    def __init__(self, *, types: int) -> None:
        super().__init__(dict.fromkeys(self.sums, (types,)))

    def _figures(self, totals: Mapping[str, Any]) -> Any:
        return per_class(**{name: counts.sum() for name, counts in totals.items()})


class EntityF1(EntityMetric):
    """Harmonic mean of the two."""

    name = "f1"

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(self._figures(totals).f1)


class EntityPrecision(EntityMetric):
    """Share of the predicted entities that are right."""

    name = "precision"

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(self._figures(totals).precision)


class EntityRecall(EntityMetric):
    """Share of the true entities that are found."""

    name = "recall"

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(self._figures(totals).recall)


class TagAccuracy(Accuracy):
    """Share of the words whose tag is right, those that were cut off a sentence among them."""

    sums = ("correct", "words")


def tag_counts(predicted: Tensor, true: Tensor, tags: int) -> dict[str, Tensor]:
    """What sentences add to the counts of each tag (B, C): predicted, true (B, W), below 0 where nothing is."""
    places = torch.arange(tags, device=true.device)
    real = (true >= 0).unsqueeze(2)
    p, t = ((each.unsqueeze(2) == places) & real for each in (predicted, true))
    return {"hits": (p & t).sum(1), "predicted": p.sum(1), "true": t.sum(1)}
