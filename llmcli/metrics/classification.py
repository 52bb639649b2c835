"""How well classes are told apart: precision, recall, F1 and Matthews' coefficient, from one confusion matrix.

Shapes: C classes. `confusion` (C, C): examples of the true class (row) that were given the predicted one (column). For
labels of which several may hold, `confusion` is (C, 2, 2): [true, predicted] of each label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmcli.metrics.base import Metric

Average = Literal["macro", "micro"]


@dataclass(frozen=True)
class PerClass:
    """precision, recall, f1 (C,) and support (C,), how many examples a class has; 0 / 0 is 0."""

    precision: Tensor
    recall: Tensor
    f1: Tensor
    support: Tensor


def per_class(confusion: Tensor) -> PerClass:
    """confusion (C, C) or (C, 2, 2) -> the figures of each class."""
    if confusion.ndim == 3:
        hits, wrong, missed = confusion[:, 1, 1], confusion[:, 0, 1], confusion[:, 1, 0]
    else:
        hits = confusion.diagonal()
        wrong, missed = confusion.sum(0) - hits, confusion.sum(1) - hits
    return PerClass(
        precision=hits / (hits + wrong).clamp(min=1),
        recall=hits / (hits + missed).clamp(min=1),
        f1=2 * hits / (2 * hits + wrong + missed).clamp(min=1),
        support=hits + missed,
    )


class ClassMetric(Metric):
    """A figure of the confusion matrix. several: any number of the classes may hold at once."""

    higher_is_better = True
    sums = ("confusion",)

    def __init__(self, *, classes: int, several: bool) -> None:
        super().__init__({"confusion": (classes, 2, 2) if several else (classes, classes)})


class MacroPrecision(ClassMetric):
    """Mean over the classes of the share of a class's predictions that are right."""

    name = "precision"

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(per_class(totals["confusion"]).precision.mean())


class MacroRecall(ClassMetric):
    """Mean over the classes of the share of a class's examples that are found."""

    name = "recall"

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(per_class(totals["confusion"]).recall.mean())


class MacroF1(ClassMetric):
    """Mean over the classes of the harmonic mean of precision and recall: rare classes count as much as others."""

    name = "f1"

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(per_class(totals["confusion"]).f1.mean())


class MicroF1(ClassMetric):
    """F1 of all decisions together; for one class an example it is the accuracy, so this is for several labels."""

    name = "micro_f1"

    def figure(self, totals: Mapping[str, Any]) -> float:
        confusion = totals["confusion"].sum(0)
        return float(2 * confusion[1, 1] / (2 * confusion[1, 1] + confusion[0, 1] + confusion[1, 0]).clamp(min=1))


class Matthews(ClassMetric):
    """Correlation of predicted and true classes, in [-1, 1], 0 for guessing (Gorodkin 2004 for several classes)."""

    name = "matthews"

    def figure(self, totals: Mapping[str, Any]) -> float:
        confusion = totals["confusion"]
        total, true, predicted = confusion.sum(), confusion.sum(1), confusion.sum(0)
        covariance = confusion.trace() * total - (true * predicted).sum()
        spread = ((total**2 - (predicted**2).sum()) * (total**2 - (true**2).sum())).sqrt()
        return float(covariance / spread) if spread > 0 else 0.0


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """predicted, labels (B,) int64 -> (C, C) int64 counts."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def label_confusion(predicted: Tensor, labels: Tensor) -> Tensor:
    """predicted, labels (B, C) bool -> (C, 2, 2) int64 counts."""
    both = (predicted & labels).sum(0)
    guessed, true = predicted.sum(0), labels.sum(0)
    none = len(labels) - guessed - true + both
    return torch.stack([torch.stack([none, guessed - both], -1), torch.stack([true - both, both], -1)], -2)
