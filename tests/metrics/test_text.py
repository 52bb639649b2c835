"""Metrics: figures by hand, sums that add up over batches and processes, and the contract of every metric there is."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from llmcli.metrics import text
from llmcli.metrics.base import Metric
from llmcli.tasks.base import figures

METRICS = [
    kind for _, kind in inspect.getmembers(text, inspect.isclass) if issubclass(kind, Metric) and "name" in vars(kind)
]
BATCHES = [
    {"loss": torch.tensor(3.0), "n": 2, "correct": torch.tensor(1), "bytes": 6.0, "characters": 5.0},
    {"loss": torch.tensor(1.0), "n": 6, "correct": torch.tensor(3), "bytes": 10.0, "characters": 3.0},
]
EXPECTED = {
    "loss": 0.5, "perplexity": math.exp(0.5), "accuracy": 0.5,
    "bits_per_byte": 0.25 / math.log(2), "bits_per_character": 0.5 / math.log(2),
}  # fmt: skip


@pytest.mark.parametrize("kind", METRICS)
def test_the_figure_is_that_of_all_batches(kind):
    metric = kind()
    for batch in BATCHES:
        metric.update(batch)
    assert metric.compute() == pytest.approx(EXPECTED[metric.name], rel=1e-12)
    assert metric.higher_is_better is (metric.name == "accuracy")


@pytest.mark.parametrize("kind", METRICS)
def test_reset_forgets(kind):
    metric = kind()
    metric.update(BATCHES[0])
    metric.reset()
    assert metric.compute() is None
    metric.update(BATCHES[1])
    alone = kind()
    alone.update(BATCHES[1])
    assert metric.compute() == alone.compute()


@pytest.mark.parametrize("kind", METRICS)
def test_processes_add_up_also_one_without_a_batch(kind):
    shares = [BATCHES[:1], BATCHES[1:], []]
    ranks = [kind() for _ in shares]
    for rank, share in zip(ranks, shares, strict=True):
        for batch in share:
            rank.update(batch)
    sent: list[torch.Tensor] = []
    for rank in ranks:
        rank.reduce(lambda sums: sent.append(sums) or sums)
    for rank in ranks:
        rank.reduce(lambda sums: sum(sent))
        assert rank.compute() == pytest.approx(EXPECTED[rank.name], rel=1e-12)


def test_a_sum_that_never_came_makes_no_figure():
    """Of text whose bytes nobody counted, or a task that does not say how often it was right."""
    metrics = [kind() for kind in METRICS]
    for metric in metrics:
        metric.update({"loss": torch.tensor(3.0), "n": 2})
        metric.reduce(lambda sums: 2 * sums)
    assert set(figures(metrics)) == {"loss", "perplexity"}


def test_updates_read_nothing_from_the_device():
    """A tensor on the meta device has no value: reading it would raise."""
    metric = text.Accuracy()
    for _ in range(3):
        metric.update({"correct": torch.ones((), device="meta"), "n": 4})
    with pytest.raises((RuntimeError, NotImplementedError)):
        metric.compute()


def test_sums_are_in_double_precision():
    metric = text.Loss()
    metric.update({"loss": torch.tensor(2.0**25), "n": 1})
    for _ in range(4):
        metric.update({"loss": torch.tensor(1.0), "n": 0})  # lost in single precision
    assert metric.compute() == 2.0**25 + 4


def test_a_hopeless_model_has_a_perplexity():
    metric = text.Perplexity()
    metric.update({"loss": torch.tensor(1e6), "n": 1})
    assert metric.compute() == math.exp(700)
    metric.update({"loss": torch.tensor(math.nan), "n": 1})
    assert math.isnan(metric.compute())


def test_a_mean_of_nothing_is_no_figure():
    metric = text.Accuracy()
    metric.update({"correct": torch.tensor(0.0), "n": 0})
    assert metric.compute() is None and math.isnan(metric.figure({"correct": 0.0, "n": 0.0}))
    metric.update({"correct": torch.tensor(1.0), "n": 2})
    assert metric.compute() == 0.5
