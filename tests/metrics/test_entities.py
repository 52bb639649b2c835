"""Figures of entities against seqeval, on sequences of tags that need not be legal."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.metrics.entities import (
    EntityCounts,
    EntityF1,
    EntityPrecision,
    EntityRecall,
    Span,
    TagAccuracy,
    marks_spans,
    spans_of,
    tag_counts,
    types_of,
)

seqeval = pytest.importorskip("seqeval.metrics")
get_entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
NAMES = ["B-LOC", "B-PER", "I-LOC", "I-PER", "I-org-unit", "O"]
sentences = st.lists(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=8), min_size=1, max_size=5
)


def padded(tags):
    width = max(map(len, tags)) + 1
    return torch.tensor([[NAMES.index(tag) for tag in row] + [-100] * (width - len(row)) for row in tags])


@given(sentences)
def test_every_figure_is_seqevals(pairs):
    predicted, true = ([[pair[side] for pair in row] for row in pairs] for side in (0, 1))
    counts = EntityCounts(NAMES)
    metrics = [kind(types=len(counts.types)) for kind in (EntityPrecision, EntityRecall, EntityF1)]
    for row in range(len(pairs)):  # sentences in batches of one or all together add up to the same
        for metric in metrics:
            found = counts(padded(predicted[row : row + 1]), padded(true[row : row + 1]))
            metric.update({name: count.sum(0) for name, count in found.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval's, where there is nothing to divide by
        expected = [getattr(seqeval, f"{name}_score")(true, predicted) for name in ("precision", "recall", "f1")]
        report = seqeval.classification_report(true, predicted, output_dict=True)
    assert [metric.compute() for metric in metrics] == pytest.approx(expected, abs=1e-12)
    together = counts(padded(predicted), padded(true))
    for place, kind in enumerate(counts.types):
        hits, guessed, real = (int(together[name][:, place].sum()) for name in ("hits", "predicted", "true"))
        if kind in report:
            assert report[kind]["support"] == real
            assert report[kind]["precision"] == pytest.approx(hits / max(1, guessed))
            assert report[kind]["recall"] == pytest.approx(hits / max(1, real))
        else:
            assert guessed == real == 0


@given(st.lists(st.sampled_from(NAMES), max_size=10))
def test_spans_are_seqevals(tags):
    assert spans_of(tags) == [Span(first, last + 1, kind) for kind, first, last in get_entities(tags)]


def test_what_goes_on_with_nothing_begins():
    assert spans_of(["I-a", "I-a", "I-b", "B-b", "O", "I-b"]) == [(0, 2, "a"), (2, 3, "b"), (3, 4, "b"), (5, 6, "b")]
    assert spans_of([]) == []


def test_where_a_sentence_was_cut_nothing_is_found():
    counts = EntityCounts(["O", "B-a", "I-a"])
    found = counts(torch.tensor([[0, 1, 2, -1, -1]]), torch.tensor([[0, 1, 2, 2, 1]]))
    assert {name: count.tolist() for name, count in found.items()} == {
        "hits": [[0]], "predicted": [[1]], "true": [[2]],
    }  # fmt: skip


def test_which_tags_mark_spans():
    assert marks_spans(["O", "B-a", "I-a"]) and marks_spans(["B-a"]) and types_of(["O", "I-b", "B-a"]) == ("a", "b")
    assert not marks_spans(["NOUN", "O"]) and not marks_spans(["O"]) and not marks_spans(["BAD", "IN"])


def test_figures_of_single_tags():
    predicted, true = torch.tensor([[0, 1, 2, 1], [1, 1, -1, -1]]), torch.tensor([[0, 1, 1, 1], [0, 1, 2, -100]])
    found = tag_counts(predicted, true, 3)
    assert found["hits"].tolist() == [[1, 2, 0], [0, 1, 0]]
    assert found["predicted"].tolist() == [[1, 2, 1], [0, 2, 0]]
    assert found["true"].tolist() == [[1, 3, 0], [1, 1, 1]]
    accuracy = TagAccuracy()
    accuracy.update({"correct": 4, "words": 7})
    assert accuracy.compute() == 4 / 7
