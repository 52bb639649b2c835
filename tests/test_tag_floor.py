"""The most frequent tag of each word, by hand and against seqeval."""

from __future__ import annotations

import pytest

from llmcli.data.records import TaggedTokens
from llmcli.tag_floor import TagFloor

TRAIN = [
    TaggedTokens(("Ann", "saw", "New", "York"), ("B-PER", "O", "B-LOC", "I-LOC")),
    TaggedTokens(("New", "York", "saw", "Ann"), ("B-ORG", "I-ORG", "O", "B-PER")),
    TaggedTokens(("York", "is", "here"), ("B-LOC", "O", "O")),
]
TEST = [
    TaggedTokens(("Ann", "saw", "York"), ("B-PER", "O", "B-LOC")),
    TaggedTokens(("Bob", "is", "New", "York"), ("B-PER", "O", "B-LOC", "I-LOC")),
]


def test_each_word_has_its_usual_tag_and_a_new_one_the_most_usual():
    floor = TagFloor(TRAIN)
    assert floor(("Ann", "saw", "New", "York", "Zoe")) == ["B-PER", "O", "B-LOC", "B-LOC", "O"]  # ties: B-LOC first


def test_figures_of_entities_are_seqevals():
    seqeval = pytest.importorskip("seqeval.metrics")
    floor = TagFloor(TRAIN)
    predicted, true = [floor(record.tokens) for record in TEST], [list(record.tags) for record in TEST]
    found = floor.figures(TEST)
    assert found == {
        "accuracy": pytest.approx(5 / 7),
        "f1": pytest.approx(seqeval.f1_score(true, predicted)),
        "precision": pytest.approx(seqeval.precision_score(true, predicted)),
        "recall": pytest.approx(seqeval.recall_score(true, predicted)),
    }


def test_figures_of_tags_that_mark_no_spans():
    floor = TagFloor([TaggedTokens(("a", "cat", "can"), ("DT", "NN", "VB")), TaggedTokens(("can",), ("NN",))])
    found = floor.figures([TaggedTokens(("a", "can", "dog"), ("DT", "VB", "NN"))])
    assert found == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx((1 + 2 / 3 + 0) / 3)}


def test_nothing_to_score():
    assert TagFloor(TRAIN).figures([])["f1"] == 0.0 and TagFloor([])(("a",)) == [""]
