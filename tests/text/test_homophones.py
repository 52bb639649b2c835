"""Characters of the same sound: what may stand for what, and that nothing else changes."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmcli.errors import InputError
from llmcli.text.augment import homophones
from llmcli.text.augment.apply import to_tags, to_text
from llmcli.text.augment.homophones import Homophones
from llmcli.text.segment.english import EnglishWords


@pytest.fixture(scope="module")
def pypinyin():
    return pytest.importorskip("pypinyin")


@pytest.fixture(scope="module")
def always(pypinyin):
    return Homophones(rate=1.0, tone=True, script="simplified")


def seen(step, word):
    return {step.changed(word, random.Random(seed)) for seed in range(200)}


def test_a_character_becomes_one_of_the_same_sound_and_tone(always):
    assert seen(always, "他") == set("她它塌") and seen(always, "她") == set("他它塌")
    assert seen(always, "的") == set("得地底")  # particles, whose usual sounds are others
    assert seen(always, "我") == {None}  # nothing sounds alike
    assert {seen(always, word).pop() for word in ("a", "de", "3", "，", "")} == {None}


def test_without_tones_there_are_more(always, pypinyin):
    toneless = Homophones(rate=1.0, tone=False, script="simplified")
    assert seen(always, "他") < seen(toneless, "他") and {"塔", "踏"} <= seen(toneless, "他")
    assert seen(toneless, "女") == {None} and "努" not in seen(toneless, "女")  # nü is not nu


def test_one_character_of_a_word_changes_and_is_read_as_in_the_word(always):
    assert seen(always, "T恤") >= {"T续", "T絮"} and all(word[0] == "T" for word in seen(always, "T恤"))
    banks = seen(always, "银行")
    assert "银航" in banks and not banks & {"银形", "银型", "银刑"}  # hang2, and xing2 by itself
    assert all((word[0] == "银") != (word[1] == "行") for word in banks)


def test_the_script_is_that_of_the_characters_put_in(always, pypinyin):
    traditional = Homophones(rate=1.0, tone=True, script="traditional")
    assert "題" in seen(traditional, "提") and "题" not in seen(traditional, "提")
    assert "题" in seen(always, "提") and "題" not in seen(always, "提")
    assert {len(set("".join(homophones._by_sound(script, True).values()))) for script in homophones._FREQUENT} == {
        3755,  # of level 1 of GB 2312
        5401,  # of Big5
    }


@given(st.text(), st.integers(0, 99))
@example("一不做，二不休 abc", 0)
@example("\ud800行〇𠀀", 1)
@example("ǎn̈行了", 2)
def test_any_text_keeps_its_length_and_all_but_one_character(always, word, seed):
    changed = always.changed(word, random.Random(seed))
    if changed is not None:
        assert len(changed) == len(word) and sum(a != b for a, b in zip(word, changed, strict=True)) == 1
        assert changed == always.changed(word, random.Random(seed))


def test_labels_stay_true(always):
    text = "他 said 北:好，的。"
    parts = to_text(text, [always], EnglishWords(contractions="whole"), random.Random(3))
    changed = "".join(part or "" for part in parts)
    assert [a == b for a, b in zip(text, changed, strict=True)] == [char not in "他好的" for char in text]
    tokens, tags = ["他", "在", "天", "津"], ["O", "O", "B-place", "I-place"]
    found, kept = to_tags(tokens, tags, [always], random.Random(0))
    assert kept == tags and all(a != b for a, b in zip(found, tokens, strict=True))


def test_what_is_wrong_is_said(monkeypatch):
    with pytest.raises(
        InputError, match=r"^augment.homophones.script \(both\) must be one of simplified, traditional$"
    ):
        Homophones(rate=0.1, tone=True, script="both")
    homophones._by_sound.cache_clear()
    monkeypatch.setitem(sys.modules, "pypinyin", None)
    with pytest.raises(InputError, match=r"^augment=\[homophones\] needs the package pypinyin$") as missing:
        Homophones(rate=0.1, tone=True, script="simplified")
    assert missing.value.hint == "pip install 'llmcli[zh]'"
