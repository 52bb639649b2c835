"""How far a model is on the side of the preferred answers."""

from __future__ import annotations

from collections.abc import Mapping

from llmcli.metrics.base import Metric


class Margin(Metric):
    """By how much the reward of the preferred answer is above the other's, on average: beta times nats."""

    name = "margin"
    higher_is_better = True
    sums = ("margin", "n")

    def figure(self, totals: Mapping[str, float]) -> float:
        return totals["margin"] / max(1.0, totals["n"])


class LikelihoodAccuracy(Metric):
    """Share of pairs whose preferred answer has the larger mean log-probability of a token."""

    name = "likelihood_accuracy"
    higher_is_better = True
    sums = ("more_probable", "n")

    def figure(self, totals: Mapping[str, float]) -> float:
        return totals["more_probable"] / max(1.0, totals["n"])
