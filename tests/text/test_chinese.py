"""Traditional and simplified Chinese: OpenCC's own outcomes, each profile another."""

import sys

import opencc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import InputError
from llmcli.text import chinese
from llmcli.text.chinese import to_simplified, to_traditional

PROFILES = {
    to_simplified: ["t2s", "tw2s", "tw2sp", "hk2s", "hk2sp"],
    to_traditional: ["s2t", "s2tw", "s2twp", "s2hk", "s2hkp"],
}
OPENCC = {profile: opencc.OpenCC(profile) for profiles in PROFILES.values() for profile in profiles}
texts = st.lists(
    st.sampled_from(["头发", "發展", "乾燥", "干", "皇后", "後", "鼠标", "滑鼠", "a", "\0"]) | st.text(max_size=5)
)


@pytest.mark.parametrize(
    ("convert", "profile"), [(convert, profile) for convert, profiles in PROFILES.items() for profile in profiles]
)
@settings(max_examples=30, deadline=None)  # the first one reads the dictionaries
@given(text=texts.map("".join))
def test_the_outcome_is_openccs(convert, profile, text):
    assert convert(text, profile=profile) == OPENCC[profile].convert(text)


@pytest.mark.parametrize(
    ("name", "profile", "text", "expected"),
    [
        ("simplified", "t2s", "頭髮發展，乾燥的滑鼠", "头发发展，干燥的滑鼠"),
        ("simplified", "tw2sp", "頭髮發展，乾燥的滑鼠", "头发发展，干燥的鼠标"),
        ("traditional", "s2t", "头发发展，里面有鼠标", "頭髮發展，裏面有鼠標"),
        ("traditional", "s2tw", "头发发展，里面有鼠标", "頭髮發展，裡面有鼠標"),
        ("traditional", "s2twp", "头发发展，里面有鼠标", "頭髮發展，裡面有滑鼠"),
    ],
)
def test_characters_follow_the_word_they_stand_in(step, name, profile, text, expected):
    assert step(name, profile=profile)(text) == expected


def test_what_is_no_chinese_stays():
    text = "Don't 3.14\n\ud83d😀 漢\ud800字 \0"
    assert to_simplified(text, profile="t2s") == text.replace("漢", "汉")


def test_another_profile_is_refused():
    with pytest.raises(InputError, match=r"clean.simplified.profile \(s2t\) must be one of t2s, tw2s"):
        to_simplified("字", profile="s2t")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opencc", None)
    chinese._converter.cache_clear()
    with pytest.raises(InputError, match=r"clean=\[traditional\] needs the package opencc") as caught:
        to_traditional("字", profile="s2hkp")
    assert caught.value.hint == "pip install 'llmcli[zh]'"
