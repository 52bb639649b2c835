"""Figures of predicted numbers, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.metrics.regression import AbsoluteError, Explained, Pearson, SquaredError, of_values

numbers = st.floats(-100, 100)


@given(pairs=st.lists(st.tuples(numbers, numbers), min_size=2, max_size=30), cut=st.integers(0, 30))
def test_figures_agree_with_numpy_whatever_the_batches(pairs, cut):
    predicted, true = np.array(pairs).T
    mean, std = 7.0, 3.0
    metrics = SquaredError(scale=std), AbsoluteError(scale=std), Pearson(), Explained()
    given_ = torch.tensor(np.array(pairs), dtype=torch.float64)
    for part in (given_[:cut], given_[cut:]):
        sums = {name: value.sum() for name, value in of_values(*((part - mean) / std).unbind(1)).items()}
        for metric in metrics:
            metric.update({**sums, "n": len(part)})
    mse, mae, pearson, r2 = (metric.compute() for metric in metrics)
    assert mse == pytest.approx(np.mean((predicted - true) ** 2), rel=1e-6, abs=1e-9)
    assert mae == pytest.approx(np.mean(np.abs(predicted - true)), rel=1e-6, abs=1e-9)
    if min(predicted.std(), true.std()) > 1e-2:
        assert pearson == pytest.approx(np.corrcoef(predicted, true)[0, 1], abs=1e-4)
        assert r2 == pytest.approx(1 - np.mean((predicted - true) ** 2) / true.var(), rel=1e-4, abs=1e-4)


def test_numbers_that_are_all_the_same_have_no_correlation():
    sums = {name: value.sum() for name, value in of_values(torch.tensor([1.0, 2.0]), torch.zeros(2)).items()}
    for metric in (Pearson(), Explained()):
        metric.update({**sums, "n": 2})
        assert metric.compute() == 0.0
