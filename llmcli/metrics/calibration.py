"""Whether probabilities mean what they say: of answers given with 80% confidence, 80% should be right.

Shapes: B batch, K bins of confidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llmcli.metrics.base import Metric

BINS = 15  # (0, 1/15], (1/15, 2/15], ... as in Guo et al.


def by_confidence(confidence: Tensor, right: Tensor) -> dict[str, Tensor]:
    """The sums (K,) of a batch: confidence (B,), the probability of each answer; right (B,) bool.

    They are no part of `StepResult.each`: gaps are absolute values, which resampling widens, so that the bootstrap's
    interval would lie above the figure.
    """
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    return {
        "bin_examples": torch.bincount(bins, minlength=BINS),
        "bin_confidence": torch.bincount(bins, confidence, minlength=BINS),
        "bin_right": torch.bincount(bins[right], minlength=BINS),
    }


class CalibrationError(Metric):
    """Expected calibration error: |accuracy - mean confidence| of each bin, weighted by examples (Guo et al. 2017)."""

    name = "calibration_error"
    higher_is_better = False
    sums = ("bin_examples", "bin_confidence", "bin_right")

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(self.sums, (BINS,)))

    def figure(self, totals: Mapping[str, Any]) -> float:
        gaps = (totals["bin_right"] - totals["bin_confidence"]).abs()
        return float(gaps.sum() / totals["bin_examples"].sum().clamp(min=1))
