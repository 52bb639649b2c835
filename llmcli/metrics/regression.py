"""How well numbers are predicted. The sums are of standardised numbers, whose squares do not cancel.

Spearman's correlation is not among them: ranks do not follow from sums over batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from llmcli.metrics.base import Metric


def of_values(predicted: Tensor, true: Tensor) -> dict[str, Tensor]:
    """What each example adds to the sums, (B,): predicted, true (B,)."""
    return {
        "squared_error": (predicted - true) ** 2,
        "absolute_error": (predicted - true).abs(),
        "predicted": predicted,
        "true": true,
        "predicted_squares": predicted**2,
        "true_squares": true**2,
        "products": predicted * true,
    }


class SquaredError(Metric):
    """Mean squared error, in the square of the unit of the numbers. scale: that of one standardised number."""

    name = "mse"
    higher_is_better = False
    sums = ("squared_error", "n")

    def __init__(self, *, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def figure(self, totals: Mapping[str, float]) -> float:
        return self.scale**2 * totals["squared_error"] / max(1.0, totals["n"])


class AbsoluteError(Metric):
    """Mean absolute error, in the unit of the numbers. scale: as of `SquaredError`."""

    name = "mae"
    higher_is_better = False
    sums = ("absolute_error", "n")

    def __init__(self, *, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def figure(self, totals: Mapping[str, float]) -> float:
        return self.scale * totals["absolute_error"] / max(1.0, totals["n"])


class Pearson(Metric):
    """Correlation of predicted and true numbers, in [-1, 1]; 0 where either are all the same."""

    name = "pearson"
    higher_is_better = True
    sums = ("predicted", "true", "predicted_squares", "true_squares", "products", "n")

    def figure(self, totals: Mapping[str, float]) -> float:
        predicted, true, predicted_squares, true_squares, products, n = (totals[name] for name in self.sums)
        n = max(1.0, n)
        spread = (predicted_squares - predicted**2 / n) * (true_squares - true**2 / n)
        return (products - predicted * true / n) / math.sqrt(spread) if spread > 0 else 0.0


class Explained(Metric):
    """R^2, the share of the numbers' variance that is explained: 1 for right, 0 for always saying their mean."""

    name = "r2"
    higher_is_better = True
    sums = ("squared_error", "true", "true_squares", "n")

    def figure(self, totals: Mapping[str, float]) -> float:
        error, true, squares, n = (totals[name] for name in self.sums)
        spread = squares - true**2 / max(1.0, n)
        return 1 - error / spread if spread > 0 else 0.0
