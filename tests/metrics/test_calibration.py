"""Expected calibration error, against its definition example by example."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.metrics.calibration import BINS, CalibrationError, by_confidence

answers = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60)


def measured(*batches):
    metric = CalibrationError()
    for batch in batches:
        confidence, right = zip(*batch, strict=True)
        metric.update(by_confidence(torch.tensor(confidence), torch.tensor(right)))
    return metric.compute()


def straightforward(rows):
    """Guo et al. 2017, equation 3: bins ((m - 1) / M, m / M]."""
    error = 0.0
    for m in range(1, BINS + 1):
        inside = [
            (p, right) for p, right in rows
            if math.ceil(torch.tensor(p).mul(BINS).item()) == m or (m == 1 and p == 0)
        ]  # fmt: skip
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            confidence = sum(p for p, _ in inside) / len(inside)
            error += len(inside) / len(rows) * abs(accuracy - confidence)
    return error


@given(answers)
def test_it_is_the_sum_over_the_bins(rows):
    assert measured(rows) == pytest.approx(straightforward(rows), abs=1e-6)


@given(answers, answers)
def test_batches_add_up(one, other):
    assert measured(one, other) == pytest.approx(measured(one + other), abs=1e-6)


def test_known_values():
    assert measured([(0.8, True)] * 4 + [(0.8, False)]) == pytest.approx(0, abs=1e-7)  # 80% are right
    assert measured([(1.0, False)] * 3) == 1.0
    assert measured([(0.9, True), (0.9, False), (0.6, True)]) == pytest.approx((2 * 0.4 + 0.4) / 3, abs=1e-6)
