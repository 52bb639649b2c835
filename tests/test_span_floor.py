"""The floor beside answers in texts, by hand."""

from __future__ import annotations

import pytest

from llmcli.data.records import QuestionAnswer
from llmcli.span_floor import SpanFloor

TRAIN = [
    QuestionAnswer("where is the cat?", "the cat is on the mat", ("on the mat",), (11,)),
    QuestionAnswer("who?", "the cat is on the mat"),
    QuestionAnswer("what?", "the dog is in the garden"),
    QuestionAnswer("who sat?", "Ann sat", ("Ann",), (0,)),
]


def test_the_span_is_as_long_as_the_median_answer_and_where_the_rare_words_of_the_question_are():
    floor = SpanFloor(TRAIN)
    assert floor.length == 2 and floor.majority == "" and floor.contexts == 3
    asked = QuestionAnswer("Is the dog old?", "the cat is young. The dog, old, is black")
    assert floor.most_alike(asked) == "dog, old"  # both stand in one context or none; "the" and "is" in two
    assert floor.most_alike(QuestionAnswer("why?", "the cat is young")) == ""
    assert floor.most_alike(QuestionAnswer("cat?", "cat")) == "cat" and floor.most_alike(QuestionAnswer("a?", "")) == ""


def test_chinese_is_taken_by_characters():
    floor = SpanFloor([QuestionAnswer("谁？", "猫坐在垫子上", ("猫",), (0,))])
    assert floor.length == 1 and floor.most_alike(QuestionAnswer("狗呢？", "猫和狗")) == "狗"


def test_figures_of_both_answers():
    found = SpanFloor(TRAIN).figures(TRAIN)
    assert found["majority_exact_match"] == found["majority_f1"] == 0.5  # two have no answer
    # "the cat", none, none, and "Ann sat" for Ann
    assert found["exact_match"] == pytest.approx(2 / 4)
    assert found["f1"] == pytest.approx((0 + 1 + 1 + 2 / 3) / 4)
