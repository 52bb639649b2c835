"""How well replaced tokens are found, and how well the generator that replaces them predicts."""

from __future__ import annotations

from collections.abc import Mapping

from llmcli.metrics.base import Mean, Metric


class GeneratorLoss(Mean):
    """Nats per hidden token."""

    name = "generator_loss"
    higher_is_better = False
    sums = ("generator_loss", "hidden")


class GeneratorAccuracy(Mean):
    """Share of the hidden tokens that were the generator's first choice."""

    name = "generator_accuracy"
    higher_is_better = True
    sums = ("generator_correct", "hidden")


class DiscriminatorLoss(Mean):
    """Nats per token: whether it was replaced."""

    name = "discriminator_loss"
    higher_is_better = False
    sums = ("discriminator_loss", "n")


class ReplacedF1(Metric):
    """Harmonic mean of precision and recall of "this token was replaced"."""

    name = "f1"
    higher_is_better = True
    sums = ("hits", "predicted", "replaced")

    def figure(self, totals: Mapping[str, float]) -> float:
        return 2 * totals["hits"] / max(1.0, totals["predicted"] + totals["replaced"])
