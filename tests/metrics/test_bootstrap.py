"""Bootstrap intervals: what theory says of a mean, the same each time, nothing where nothing varies."""

from __future__ import annotations

import math

import pytest
import torch

from llmcli.metrics.bootstrap import SEED, Contributions, by_cluster, differences, figures_of, intervals, resampled
from llmcli.metrics.classification import MacroF1, Matthews, class_counts
from llmcli.metrics.regression import SquaredError
from llmcli.metrics.spans import AnswerableF1, Unanswered
from llmcli.metrics.text import Accuracy, BitsPerByte, Loss

N = 400
METRICS = [Loss(), Accuracy(), MacroF1(classes=3), BitsPerByte()]


def contributions(right=0.8, n=N, seed=0):
    draw = torch.Generator().manual_seed(seed)
    true = torch.randint(3, (n,), generator=draw)
    predicted = torch.where(torch.rand(n, generator=draw) < right, true, (true + 1) % 3)
    loss = torch.randn(n, generator=draw) + 2
    return {"loss": loss, "n": torch.ones(n), "correct": predicted == true, **class_counts(predicted, true, 3)}


def test_the_interval_of_a_mean_is_the_normal_one():
    each = contributions()
    found = intervals(METRICS, each, resamples=4000)
    for name, values in (("loss", each["loss"]), ("accuracy", each["correct"].float())):
        middle, error = values.mean().item(), values.std(correction=0).item() / math.sqrt(N)
        assert found[name] == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.15 * error)
    assert set(found) == {"loss", "accuracy", "f1"}  # nothing is said of a figure whose sums no example has


def test_it_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        low, high = intervals([Accuracy()], contributions(seed=seed), resamples=200, seed=seed)["accuracy"]
        covered += low <= 0.8 <= high
    assert 180 <= covered <= 199


def test_a_resample_is_as_many_examples_with_replacement():
    n = 50
    each = {"n": torch.ones(n), "which": torch.eye(n, dtype=torch.bool)}
    sums = resampled(each, resamples=2000, seed=1)
    assert sums["n"].tolist() == [n] * 2000
    counts = sums["which"]  # (R, N): how often each example was drawn
    assert counts.sum(1).tolist() == [n] * 2000
    # multinomial: mean 1, variance 1 - 1/N, a share of about 1/e never drawn
    assert counts.mean(0).sub(1).abs().max() < 0.12
    assert counts.var().item() == pytest.approx(1 - 1 / n, abs=0.03)
    assert (counts == 0).double().mean().item() == pytest.approx((1 - 1 / n) ** n, abs=0.01)


def test_examples_in_chunks_are_those_of_one(monkeypatch):
    whole = resampled(contributions(), resamples=64, seed=3)
    monkeypatch.setattr("llmcli.metrics.bootstrap._AT_ONCE", 10 * N)
    for name, sums in resampled(contributions(), resamples=64, seed=3).items():
        torch.testing.assert_close(sums, whole[name])


def test_the_seed_decides_and_the_default_stays():
    each = contributions()
    assert intervals(METRICS, each, resamples=100) == intervals(METRICS, each, resamples=100, seed=SEED)
    assert intervals(METRICS, each, resamples=100) != intervals(METRICS, each, resamples=100, seed=SEED + 1)


def test_examples_that_are_all_alike_leave_no_doubt():
    one = {name: value[:1] for name, value in contributions().items()}
    same = {name: value.expand(30, *value.shape[1:]) for name, value in one.items()}
    for name, (low, high) in intervals(METRICS, same, resamples=50).items():
        figure = intervals(METRICS, one, resamples=1)[name][0]
        assert low == high == pytest.approx(figure)


def test_batches_of_any_size_and_order_are_the_split():
    each = contributions(n=7)
    whole, parts = Contributions(), Contributions()
    whole.add(torch.arange(7), each)
    for rows in ([5, 0], [3], [6, 1, 4, 2]):
        parts.add(torch.tensor(rows), {name: value[rows] for name, value in each.items()})
    for name, value in parts.each().items():
        torch.testing.assert_close(value, each[name])
        torch.testing.assert_close(value, whole.each()[name])


def test_two_systems_are_compared_on_the_same_examples():
    better, worse = contributions(right=0.9), contributions(right=0.8)  # of the same draws: right wherever it is
    found = differences([Accuracy(), Matthews(classes=3)], better, worse, resamples=999)
    accuracy = found["accuracy"]
    assert accuracy.measured == pytest.approx((better["correct"].sum() - worse["correct"].sum()).item() / N)
    assert accuracy.low < accuracy.measured < accuracy.high and accuracy.low > 0
    apart = better["correct"].float() - worse["correct"].float()
    assert accuracy.high - accuracy.low == pytest.approx(2 * 1.96 * apart.std().item() / math.sqrt(N), rel=0.15)
    assert accuracy.p == pytest.approx(2 / 1000)  # no resample of 999 has another sign
    assert found["matthews"].p == accuracy.p


def test_a_system_does_not_differ_from_itself():
    each = contributions()
    [same] = differences([Accuracy()], each, each, resamples=99).values()
    assert (same.measured, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_the_sign_that_is_as_often_turned_is_no_difference():
    """p of two systems that are right on unlike halves."""
    left = {"correct": torch.arange(N) % 2 == 0, "n": torch.ones(N)}
    right = {"correct": torch.arange(N) % 2 == 1, "n": torch.ones(N)}
    [found] = differences([Accuracy()], left, right, resamples=999).values()
    assert found.measured == 0 and found.p > 0.9


def test_each_side_is_measured_in_its_own_units():
    errors = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    ours, theirs = ({"squared_error": errors / std**2, "n": torch.ones(3)} for std in (1.0, 2.0))
    found = differences(
        [SquaredError(scale=1.0)], ours, theirs, resamples=50, baseline_metrics=[SquaredError(scale=2.0)]
    )
    assert found["mse"].measured == pytest.approx(0.0) and found["mse"].low == pytest.approx(0.0)


def test_examples_that_share_a_text_are_drawn_together():
    """Ten copies of each of 40 answers say no more than the 40: the interval is that of 40, and of 400 too narrow."""
    alone = contributions(n=40)
    copies = {name: value.repeat_interleave(10, 0) for name, value in alone.items()}
    clusters = torch.randperm(40, generator=torch.Generator().manual_seed(1)).repeat_interleave(10)
    together = by_cluster(copies, clusters)
    assert together["n"].tolist() == [10.0] * 40 and together["hits"].shape == (40, 3)
    assert figures_of(METRICS, together) == pytest.approx(figures_of(METRICS, copies))
    widths = [high - low for low, high in (
        intervals([Accuracy()], each, resamples=2000)["accuracy"] for each in (alone, together, copies)
    )]  # fmt: skip
    assert widths[1] == pytest.approx(widths[0], rel=0.2) and widths[2] < widths[0] / 2


def test_a_resample_in_which_a_figure_has_nothing_to_be_made_of_is_left_out():
    """Of 12 questions one has an answer, which is right: it is missing in a third of the resamples."""
    answerable = (torch.arange(12) == 0).float()
    each = {"answerable": answerable, "answerable_overlap": answerable, "unanswerable": torch.zeros(12)}
    each["unanswered"] = torch.zeros(12)
    assert intervals([AnswerableF1(), Unanswered()], each, resamples=200) == {"answerable_f1": (1.0, 1.0)}
    assert figures_of([AnswerableF1(), Unanswered()], each) == {"answerable_f1": 1.0}
    worse = {**each, "answerable_overlap": answerable / 4}
    found = differences([AnswerableF1(), Unanswered()], each, worse, resamples=200)
    [one] = found.values()
    assert found.keys() == {"answerable_f1"} and (one.low, one.high) == (0.75, 0.75)
    assert one.p > 2 / 201  # of the resamples that have a question with an answer
