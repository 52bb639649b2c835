from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.metrics.overlap import distinct_n, longest_common_subsequence, rouge, rouge_l, words

WORDS = ("the", "cat", "sat,", "on", "The", "mat's", "12", "café", "--", ".", "x_y")
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


@pytest.fixture(scope="module")
def scorer():
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    return rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)


@given(predicted=SENTENCES, reference=SENTENCES)
def test_agrees_with_the_package(scorer, predicted, reference):
    theirs = scorer.score(reference, predicted)
    for name, ours in rouge(predicted, reference).items():
        assert tuple(ours) == pytest.approx((theirs[name].precision, theirs[name].recall, theirs[name].fmeasure))


def test_chinese_is_compared_by_character():
    assert words("我爱NLP模型 v2") == ["我", "爱", "nlp", "模", "型", "v2"]
    found = rouge("我爱你", "我不爱你")
    assert found["rouge1"] == (1.0, 0.75, pytest.approx(6 / 7))
    assert found["rouge2"].recall == pytest.approx(1 / 3)  # 爱你, of 我不 不爱 爱你
    assert found["rougeL"].recall == 0.75


def test_nothing_in_common_or_nothing_at_all_is_zero():
    for pair in (("a", "b"), ("", "b"), ("a", ""), ("", "")):
        assert all(tuple(each) == (0.0, 0.0, 0.0) for each in rouge(*pair).values())


@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_subsequences_are_those_of_the_table(one, other):
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert longest_common_subsequence(one, other) == table[-1][-1]
    assert rouge_l(one, other).recall == table[-1][-1] / max(1, len(other))


def test_distinct_counts_over_all_texts():
    texts = [["a", "b", "a"], ["a", "b"]]
    assert distinct_n(texts, 1) == 2 / 5
    assert distinct_n(texts, 2) == 2 / 3
    assert distinct_n([[]], 1) == distinct_n([["a"]], 2) == 0.0
