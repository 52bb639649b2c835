"""Spearman, similarity lists, analogies and neighbours, beside scipy and gensim."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.metrics.words import WordSpace, ranks, spearman

few = settings(max_examples=50, deadline=None)
WORDS = [f"word{number}" for number in range(40)]


def vectors(seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(40, 8)).astype(np.float32))


@pytest.fixture
def keyed():
    """gensim's own vectors, the same ones."""
    module = pytest.importorskip("gensim.models.keyedvectors")
    found = module.KeyedVectors(8)
    found.add_vectors(WORDS, vectors().numpy())
    return found


def test_ties_share_the_mean_of_their_places():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=40))
@few
def test_spearman_is_scipys(pairs):
    stats = pytest.importorskip("scipy.stats")
    first, second = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    found = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(float(stats.spearmanr(first, second)[0]), abs=1e-12)


def test_spearman_of_nothing_is_none():
    assert spearman([], []) is None and spearman([1.0], [2.0]) is None


def test_similarity_is_gensims(keyed, tmp_path):
    rng = np.random.default_rng(3)
    pairs = [(*rng.choice(WORDS, 2, replace=False), float(score)) for score in rng.integers(0, 5, 60)]
    pairs += [("word1", "nowhere", 3.0), ("nowhere", "nothing", 1.0)]
    path = tmp_path / "pairs.txt"
    path.write_text("".join(f"{a}\t{b}\t{score}\n" for a, b, score in pairs), encoding="utf-8")
    _, (rho, _), missing = keyed.evaluate_word_pairs(str(path))
    found = WordSpace(WORDS, vectors()).similarity(pairs)
    assert found["spearman"] == pytest.approx(float(rho), abs=1e-6)
    assert found["pairs"] == 62 and found["covered"] == 60
    assert 100 * (1 - found["coverage"]) == pytest.approx(missing)


def test_analogies_are_gensims(keyed, tmp_path):
    rng = np.random.default_rng(4)
    drawn = [tuple(rng.choice(WORDS, 4, replace=False)) for _ in range(60)]
    best = [keyed.most_similar(positive=[b, c], negative=[a], topn=1)[0][0] for a, b, c, _ in drawn]
    sections = {
        "right": [(a, b, c, answer) for (a, b, c, _), answer in zip(drawn[:40], best, strict=False)],
        "drawn": [*drawn[40:], ("word1", "word2", "word3", "nowhere")],
        "unknown": [("nobody", "knows", "these", "words")],
    }
    path = tmp_path / "questions.txt"
    lines = [f": {name}\n" + "".join(" ".join(each) + "\n" for each in part) for name, part in sections.items()]
    path.write_text("".join(lines), encoding="utf-8")
    accuracy, _ = keyed.evaluate_word_analogies(str(path))
    found = WordSpace(WORDS, vectors()).analogies(sections)
    assert found["sections"]["right"]["accuracy"] == 1.0
    assert found["accuracy"] == pytest.approx(accuracy)
    assert (found["questions"], found["covered"]) == (62, 60)
    assert found["sections"]["unknown"] == {"accuracy": None, "questions": 1, "covered": 0, "coverage": 0.0}


def test_neighbours_are_gensims(keyed):
    space = WordSpace(WORDS, vectors())
    found = space.neighbours(space.vector("word7"), 5, without=["word7"])
    expected = keyed.most_similar("word7", topn=5)
    assert [word for word, _ in found] == [word for word, _ in expected]
    np.testing.assert_allclose([cosine for _, cosine in found], [cosine for _, cosine in expected], atol=1e-6)
    assert len(space.neighbours(space.vector("word7"), 99, without=["word7"])) == 39


def test_a_word_is_found_in_another_case_the_most_frequent_first():
    space = WordSpace(["Paris", "PARIS", "apple"], torch.eye(3))
    assert space.row("Paris") == 0 and space.row("PARIS") == 1 and space.row("paris") == 0
    assert space.row("APPLE") == 2 and space.row("pear") is None
    assert space.vector("pear") is None


def test_a_word_from_outside_may_have_a_vector():
    space = WordSpace(
        ["one"], torch.eye(2)[:1], outside=lambda word: torch.tensor([0.0, 3.0]) if word == "two" else None
    )
    assert space.vector("two").tolist() == [0.0, 1.0]
    assert space.similarity([("one", "two", 1.0), ("one", "three", 2.0)])["covered"] == 1
