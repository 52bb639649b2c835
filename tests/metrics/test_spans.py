"""Exact match and F1 of answers, on cases worked out by hand from the rules of SQuAD and CMRC 2018."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.metrics.spans import SPAN_METRICS, by_character, match


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The Cat", ["cat!"], 1, 1),  # capitals, articles, punctuation
        ("a  cat\nsat", ["an cat sat."], 1, 1),  # white space
        ("theatre", ["atre"], 0, 0),  # "the" is an article only as a word
        ("black cat", ["the cat"], 0, 2 / 3),  # 1 common of 2 and 1: 2 * 1 / (2 + 1)
        ("cat cat dog", ["cat dog dog"], 0, 2 / 3),  # cat once, dog once: 2 * 2 / (3 + 3)
        ("dog cat", ["cat dog"], 0, 1),  # in any order
        ("it's 1,000", ["its 1000"], 1, 1),  # punctuation goes, nothing takes its place
        ("cat", ["dog", "the cat sat"], 0, 2 / 3),  # the best of several: 2 * 1 / (1 + 2)
        ("", [], 1, 1),  # no answer, and none is right
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", ["cat"], 0, 0),  # nothing is left of it
        ("", ["the", "!"], 1, 1),  # nothing is left of the right ones: none is right, as in SQuAD 2.0
    ],
)
def test_the_rules_of_squad(answer, right, exact, f1):
    assert match(answer, right, characters=False) == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("《红楼梦》", ["红楼梦"], 1, 1),
        ("红楼梦，", ["红楼"], 0, 4 / 5),  # a run of 2 of 3 and 2
        ("甲乙丙丁", ["甲乙丁丙"], 0, 4 / 8),  # one run, not all that stands in the same order
        ("乙甲", ["甲乙"], 0, 2 / 4),
        ("NBA球员", ["nba 球员"], 0, 1),  # words of letters are whole; for an exact match spaces count
        ("2018年", ["2019年"], 0, 2 / 4),  # 年 alone
        ("甲", ["乙", "甲乙"], 0, 2 / 3),
        ("", [], 1, 1),
        ("甲", [], 0, 0),
        ("，", ["甲"], 0, 0),
    ],
)
def test_the_rules_of_cmrc(answer, right, exact, f1):
    assert match(answer, right, characters=True) == (exact, pytest.approx(f1))


def test_the_script_of_the_text_chooses_the_rules():
    assert by_character("红楼梦的作者是曹雪芹。") and by_character("NBA球员科比·布莱恩特在湖人队打球")
    assert not by_character("The novel 红楼梦 was written in the eighteenth century by Cao Xueqin.")
    assert not by_character("") and not by_character("Größe und Maß")


@given(text=st.text("the Cat,sat 红楼，。", max_size=12), characters=st.booleans())
def test_an_answer_matches_itself(text, characters):
    assert match(text, [text], characters=characters) == (1.0, 1.0)


@given(one=st.text("abc 红楼，", max_size=9), other=st.text("abc 红楼，", max_size=9), characters=st.booleans())
def test_an_exact_match_overlaps_whole(one, other, characters):
    exact, f1 = match(one, [other], characters=characters)
    assert 0 <= f1 <= 1 and (not exact or f1 == 1)


def figures(**sums):
    found = {}
    for metric in (kind() for kind in SPAN_METRICS):
        metric.update({name: torch.tensor(float(value)) for name, value in sums.items()})
        found[metric.name] = metric.compute()
    return found


def test_figures_of_questions_with_and_without_answers():
    counts = {"exact": 3, "overlap": 3.5, "questions": 8, "answerable": 4, "unanswerable": 4}
    found = figures(**counts, answerable_exact=1, answerable_overlap=1.5, unanswered=2)
    assert found == {
        "exact_match": 3 / 8, "f1": 3.5 / 8, "answerable_exact_match": 1 / 4, "answerable_f1": 1.5 / 4,
        "unanswerable_accuracy": 2 / 4,
    }  # fmt: skip
    none = figures(exact=1, overlap=1, questions=1, answerable=1, unanswerable=0, answerable_exact=1, unanswered=0)
    assert none["unanswerable_accuracy"] is None and none["answerable_f1"] is None and none["exact_match"] == 1
