"""How well text is predicted: loss, perplexity, accuracy, bits per byte and per character."""

from __future__ import annotations

import math
from collections.abc import Mapping

from llmcli.metrics.base import Mean, Metric

_LARGEST = 700.0  # nats per token; exp of more is no float


class Loss(Mean):
    """Nats per target."""

    name = "loss"
    higher_is_better = False
    sums = ("loss", "n")


class Perplexity(Loss):
    """exp of the loss: of how many equally likely tokens the model would have to choose to do as badly."""

    name = "perplexity"

    def figure(self, totals: Mapping[str, float]) -> float:
        return math.exp(min(super().figure(totals), _LARGEST))


class Accuracy(Mean):
    """Share of the targets that were the model's first choice (the sum `correct`)."""

    name = "accuracy"
    higher_is_better = True
    sums = ("correct", "n")


class BitsPerByte(Metric):
    """Loss in bits for each UTF-8 byte of the text, which does not depend on the tokenizer."""

    name = "bits_per_byte"
    higher_is_better = False
    sums = ("loss", "bytes")

    def figure(self, totals: Mapping[str, float]) -> float:
        return totals["loss"] / math.log(2) / max(1.0, totals["bytes"])


class BitsPerCharacter(Metric):
    """Loss in bits for each character of the text."""

    name = "bits_per_character"
    higher_is_better = False
    sums = ("loss", "characters")

    def figure(self, totals: Mapping[str, float]) -> float:
        return totals["loss"] / math.log(2) / max(1.0, totals["characters"])
