"""Figures of classes against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.metrics import classification
from llmcli.metrics.classification import (
    MacroF1,
    MacroPrecision,
    MacroRecall,
    Matthews,
    MicroF1,
    class_counts,
    label_counts,
    per_class,
)

sklearn = pytest.importorskip("sklearn.metrics")
pairs = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=40),
    )
)


def figure(kind, parts, classes):
    metric = kind(classes=classes)
    for part in parts:
        metric.update(summed(part))
    return metric.compute()


def summed(each):
    return {name: value.sum(0) for name, value in each.items()}


@given(pairs)
def test_one_class_an_example(drawn):
    classes, rows = drawn
    predicted, true = np.array(rows).T
    halves = [
        class_counts(torch.tensor(p, dtype=torch.int64), torch.tensor(t, dtype=torch.int64), classes)
        for p, t in ((predicted[:3], true[:3]), (predicted[3:], true[3:]))
    ]
    options = {"labels": range(classes), "zero_division": 0}
    for kind, score in (
        (MacroF1, sklearn.f1_score),
        (MacroPrecision, sklearn.precision_score),
        (MacroRecall, sklearn.recall_score),
    ):
        assert figure(kind, halves, classes) == pytest.approx(score(true, predicted, average="macro", **options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a single class, which is a case that we want
        expected = sklearn.matthews_corrcoef(true, predicted)
    assert figure(Matthews, halves, classes) == pytest.approx(expected, abs=1e-9)
    found = per_class(**{name: torch.cat([half[name] for half in halves]).sum(0).double() for name in halves[0]})
    expected = sklearn.precision_recall_fscore_support(true, predicted, **options)
    for mine, theirs in zip((found.precision, found.recall, found.f1, found.support), expected, strict=True):
        np.testing.assert_allclose(mine, theirs)
    names = "abcde"[:classes]
    report = sklearn.classification_report(true, predicted, target_names=list(names), output_dict=True, **options)
    theirs = {"f1-score": "f1"}  # what scikit-learn calls it
    assert found.named(names) == {
        name: {theirs.get(key, key): pytest.approx(value) for key, value in report[name].items()} for name in names
    }


@given(st.lists(st.tuples(*[st.booleans()] * 6), min_size=1, max_size=20))
def test_several_labels_an_example(rows):
    both = np.array(rows)
    predicted, true = both[:, :3], both[:, 3:]
    each = label_counts(torch.tensor(predicted), torch.tensor(true))
    counts = summed(each)
    expected = sklearn.multilabel_confusion_matrix(true, predicted)
    np.testing.assert_array_equal(counts["hits"], expected[:, 1, 1])
    np.testing.assert_array_equal(counts["predicted"], expected[:, :, 1].sum(1))
    for kind, average in ((MacroF1, "macro"), (MicroF1, "micro")):
        expected = sklearn.f1_score(true, predicted, average=average, zero_division=0)
        assert figure(kind, [each], 3) == pytest.approx(expected)


def test_processes_add_up_also_one_without_a_batch():
    each = class_counts(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 2)
    busy, idle = (MacroF1(classes=2) for _ in range(2))
    busy.update(summed(each))
    sent = []
    for rank in (busy, idle):
        rank.reduce(lambda sums: sent.append(sums) or sums)
    for rank in (busy, idle):
        rank.reduce(lambda sums: sum(sent))
        assert rank.compute() == pytest.approx(figure(MacroF1, [each], 2))


def test_every_figure_of_the_module_is_tested_here():
    kinds = {each for each in vars(classification).values() if isinstance(each, type)}
    figures = {each for each in kinds if issubclass(each, classification.ClassMetric)} - {classification.ClassMetric}
    assert figures == {MacroF1, MacroPrecision, MacroRecall, MicroF1, Matthews}
