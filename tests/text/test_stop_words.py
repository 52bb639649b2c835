"""Stop words go, everything else stays as it was."""

import pytest
import rjieba
from hypothesis import example, given
from hypothesis import strategies as st

from llmcli.errors import InputError
from llmcli.text.stop_words import CHINESE, ENGLISH, remove_stop_words


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, "The cat isn't on the mat.", "cat isn't mat."),
        ({}, "What is  this?\n  It’s a café!\n", " ?\n  café!\n"),
        ({}, "THE theory of other-worldly http://a.org/the/of", "theory other-worldly http://a.org/the/of"),
        ({}, "我们的目的是学习，不是玩。", "目的学习，不是玩。"),
        ({"languages": ["en"]}, "The 我们 of 目的", "我们 目的"),
        ({"languages": ["zh"]}, "The 我们 of 目的", "The of 目的"),
        ({"extra": ["Cat", "学习"]}, "a cat 学习", ""),
        ({"keep": ["The", "我们"]}, "the cat of 我们", "the cat 我们"),
    ],
)
def test_outcomes(step, options, text, expected):
    assert step("stop_words", **options)(text) == expected


def test_negations_stay():
    words = "no not never nor neither none nobody nothing nowhere cannot can't won't isn't don't without hardly few"
    assert not ENGLISH & set(words.split()) - {"few"}
    assert not CHINESE & {"不", "没", "没有", "无", "非", "别", "未", "不是", "不能", "不要"}


def test_every_chinese_stop_word_is_one_that_the_segmenter_gives():
    apart = {word for word in CHINESE if rjieba.cut(word) != [word]}
    assert not apart


@example(text="的the  ")  # what one language leaves is not looked at by the other
@given(
    text=st.lists(st.sampled_from(["the ", "of", "cat", " ", "\n", "的", "猫", "我们", "，", "don't ", "\ud83d"])).map(
        "".join
    )
)
def test_a_text_cut_after_white_space_gives_the_same(text):
    def clean(part):
        return remove_stop_words(part, languages=["en", "zh"], extra=[], keep=[])

    assert "".join(map(clean, text.splitlines(keepends=True))) == clean(text)
    parts = text.split(" ")
    assert "".join(clean(f"{part} ") for part in parts[:-1]) + clean(parts[-1]) == clean(text)


def test_another_language_is_refused():
    with pytest.raises(InputError, match=r"clean.stop_words.languages: there is no list for de"):
        remove_stop_words("der", languages=["de"], extra=[], keep=[])
