"""Repeated characters and lines."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import InputError


@pytest.mark.parametrize(
    "options, text, expected",
    [
        ({}, "sooooo 哈哈哈哈哈！！！！ ---- 1000000", "sooo 哈哈哈！！！ --- 1000000"),
        ({}, "a    b\n\n\n\n", "a    b\n\n\n\n"),
        ({}, "aaa bbb", "aaa bbb"),
        ({"max_run": 1}, "committee 谢谢", "comite 谢"),
    ],
)
def test_characters(step, options, text, expected):
    assert step("repeated_characters", **options)(text) == expected


@settings(deadline=None)
@given(st.text(alphabet="aé哈1 \n"), st.integers(1, 4))
def test_no_run_is_longer_than_allowed(step, text, max_run):
    clean = step("repeated_characters", max_run=max_run)(text)
    assert not re.search(rf"([^\d\s])\1{{{max_run}}}", clean)
    # the same characters in the same order
    assert re.sub(r"(.)\1+", r"\1", clean, flags=re.DOTALL) == re.sub(r"(.)\1+", r"\1", text, flags=re.DOTALL)


LYRICS = "la\nla\nla\n\n\n\nend\none\ntwo\nthree\nend\nfour\n"


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, "la\n\n\n\nend\none\ntwo\nthree\nend\nfour\n"),
        ({"max_run": 2}, "la\n\n\n\nend\none\ntwo\nthree\nend\nfour\n"),  # 3 of 9 lines are more than 0.3
        ({"max_run": 2, "max_share": None}, LYRICS.replace("la\n", "", 1)),
        ({"max_share": 0.1}, "la\n\n\n\nend\none\ntwo\nthree\nfour\n"),
        ({"max_share": None, "max_run": 3}, LYRICS),
        ({"max_share": 1.0, "max_run": 2}, LYRICS.replace("la\n", "", 1)),
    ],
)
def test_lines(step, options, expected):
    assert step("repeated_lines", **options)(LYRICS) == expected


def test_errors(step):
    with pytest.raises(InputError, match=r"clean.repeated_characters.max_run \(0\) must be at least 1"):
        step("repeated_characters", max_run=0)("a")
    with pytest.raises(InputError, match=r"clean.repeated_lines.max_run \(0\) must be at least 1"):
        step("repeated_lines", max_run=0)("a")
    with pytest.raises(InputError, match=r"clean.repeated_lines.max_share \(1.5\) must be between 0 and 1, or null"):
        step("repeated_lines", max_share=1.5)("a")
