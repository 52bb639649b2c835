"""Spelling: only English words between white space change, and keep their case and punctuation."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import InputError
from llmcli.text.spelling import correct_spelling


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, 'I recieve a "seperate" langauge, (definately)!\n', 'I receive a "separate" language, (definitely)!\n'),
        ({}, "http://a.org/recieve recieve.py x_recieve recieve2 a-recieve 收recieve recieve's", None),
        ({}, "Recieve RECIEVE reCieve", None),
        ({"capitalized": True}, "Recieve RECIEVE reCieve", "Receive RECEIVE reCieve"),
        ({}, "teh", None),
        ({"min_length": 3}, "teh", "the"),
        ({}, "recieve langauge", "receive language"),
        ({"keep": ["Langauge"]}, "recieve langauge", "receive langauge"),
        ({}, "definnitley", "definitely"),
        ({"max_edit_distance": 1}, "definnitley", None),
        ({}, "qzxwvkjq 3.14 中文，错误 don't", None),
    ],
)
def test_outcomes(step, options, text, expected):
    assert step("spelling", **options)(text) == (text if expected is None else expected)


@settings(deadline=None)  # the first one reads the dictionary
@given(text=st.text())
def test_what_is_no_english_word_stays(text):
    changed = correct_spelling(text, max_edit_distance=1, min_length=1, capitalized=True, keep=[])
    assert len(changed.split()) >= len(text.split())
    strange = [char for char in text if not (char.isascii() and char.isalpha())]
    assert [char for char in changed if not (char.isascii() and char.isalpha()) and char not in " '"] == [
        char for char in strange if char not in " '"
    ]


@pytest.mark.parametrize("distance", [0, 4])
def test_an_impossible_distance_is_refused(distance):
    with pytest.raises(InputError, match=rf"clean.spelling.max_edit_distance \({distance}\) must be from 1 to 3"):
        correct_spelling("a", max_edit_distance=distance, min_length=1, capitalized=False, keep=[])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "symspellpy", None)
    with pytest.raises(InputError, match=r"clean=\[spelling\] needs the package symspellpy"):
        correct_spelling("wrrongg", max_edit_distance=3, min_length=1, capitalized=False, keep=[])
