"""How well classes are told apart: precision, recall, F1 and Matthews' coefficient.

All follow from three counts of each class, whether an example has one class or several: `hits`, predicted and
true; `predicted`; `true`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from llmcli.metrics.base import Metric


@dataclass(frozen=True)
class PerClass:
    """precision, recall, f1 and support, how many examples have the class, (C,) each; 0 / 0 is 0."""

    precision: Tensor
    recall: Tensor
    f1: Tensor
    support: Tensor

    def named(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """The figures of each class by its name, in the order of the names (C,)."""
        columns = {each.name: getattr(self, each.name).tolist() for each in fields(self)}
        return {name: {figure: column[row] for figure, column in columns.items()} for row, name in enumerate(names)}


def per_class(hits: Tensor, predicted: Tensor, true: Tensor) -> PerClass:
    """The figures of each class, or of one where the counts are sums."""
    return PerClass(
        precision=hits / predicted.clamp(min=1),
        recall=hits / true.clamp(min=1),
        f1=2 * hits / (predicted + true).clamp(min=1),
        support=true,
    )


def class_counts(predicted: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """What each example adds to the three counts (B, C) where it has one class: predicted, labels (B,) int64."""
    return label_counts(F.one_hot(predicted, classes).bool(), F.one_hot(labels, classes).bool())


def label_counts(predicted: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The same for any number of classes: predicted, labels (B, C) bool."""
    return {"hits": predicted & labels, "predicted": predicted, "true": labels}


class ClassMetric(Metric):
    """A figure of the three counts."""

    higher_is_better = True
    sums = ("hits", "predicted", "true")

    def __init__(self, *, classes: int) -> None:
        super().__init__(dict.fromkeys(self.sums, (classes,)))


class MacroPrecision(ClassMetric):
    """Mean over the classes of the share of a class's predictions that are right."""

    name = "precision"

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(per_class(**totals).precision.mean())


class MacroRecall(ClassMetric):
    """Mean over the classes of the share of a class's examples that are found."""

    name = "recall"

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(per_class(**totals).recall.mean())


class MacroF1(ClassMetric):
    """Mean over the classes of the harmonic mean of precision and recall: rare classes count as much as others."""

    name = "f1"

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(per_class(**totals).f1.mean())


class MicroF1(ClassMetric):
    """F1 of all decisions together; for one class an example it is the accuracy, so this is for several labels."""

    name = "micro_f1"

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(per_class(**{name: counts.sum() for name, counts in totals.items()}).f1)


class Matthews(ClassMetric):
    """Correlation of predicted and true classes, in [-1, 1], 0 for guessing (Gorodkin 2004); one class an example."""

    name = "matthews"

    def figure(self, totals: Mapping[str, Any]) -> float:
        hits, predicted, true = (totals[name] for name in self.sums)
        total = true.sum()
        covariance = hits.sum() * total - (true * predicted).sum()
        spread = ((total**2 - (predicted**2).sum()) * (total**2 - (true**2).sum())).sqrt()
        return float(covariance / spread) if spread > 0 else 0.0
