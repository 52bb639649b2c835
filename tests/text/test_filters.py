"""Filters by length, language and script."""

from __future__ import annotations

import unicodedata

import pytest

from llmcli.errors import InputError
from llmcli.text import scripts

ENGLISH = "The weather was fine, and so we walked along the river to the old mill before it got dark."
CHINESE = "今天天气很好，我们沿着河边一直走到老磨坊，天黑之前才回家。"
FRENCH = "Il faisait beau, alors nous avons marché le long de la rivière jusqu'au vieux moulin avant la nuit."


@pytest.mark.parametrize(
    "name, options, kept, dropped",
    [
        ("length", {}, ["a", "中"], [""]),
        ("length", {"minimum": 3}, ["abc", "a b"], ["ab"]),
        ("length", {"maximum": 3}, ["abc"], ["abcd"]),
        (
            "length",
            {"unit": "words", "minimum": 2, "maximum": 3},
            ["a b", "你，好。"],
            ["abc", "你！", "我们吃饭"],
        ),
        ("language", {}, [ENGLISH, CHINESE], [FRENCH]),
        ("language", {"languages": ["fr"]}, [FRENCH], [ENGLISH, CHINESE]),
        ("language", {"languages": ["en", "fr"], "sample": 90}, [ENGLISH + FRENCH, FRENCH], [CHINESE + ENGLISH]),
        ("language", {"languages": ["en"], "min_probability": 1.0}, [], [ENGLISH]),
        ("language", {"languages": ["en"], "min_probability": 0.0}, [ENGLISH, FRENCH, ""], []),
        ("script", {}, [ENGLISH, CHINESE, "абвгд abcdef"], ["абвгд abc", "123 !?", ""]),
        ("script", {"scripts": ["Han"]}, [CHINESE, "中文 ab"], [ENGLISH, "中文 abc"]),
        ("script", {"scripts": ["Han"], "min_share": 0.3}, ["中文 abc"], ["中 abc"]),
    ],
)
def test_outcomes(step, name, options, kept, dropped):
    clean = step(name, **options)
    assert [clean(text) for text in kept] == kept
    assert [clean(text) for text in dropped] == [None] * len(dropped)


def test_what_is_not_known_is_named_with_what_is(step):
    with pytest.raises(InputError, match=r"clean.language.languages: xx is not known") as caught:
        step("language", languages=["en", "xx"])(ENGLISH)
    assert ", en, " in caught.value.hint
    with pytest.raises(InputError, match=r"clean.language.languages is empty"):
        step("language", languages=[])(ENGLISH)
    with pytest.raises(InputError, match=r"there is no script Hann\. Did you mean Han\?") as caught:
        step("script", scripts=["Hann"])(ENGLISH)
    assert "Cyrillic, " in caught.value.hint
    with pytest.raises(InputError, match=r"clean.length.maximum \(1\) must be at least clean.length.minimum \(2\)"):
        step("length", minimum=2, maximum=1)("a")


def test_scripts_are_those_of_unicode():
    """The first word of a letter's name is its script, but for Han."""
    words = {name.upper(): name for name in scripts.NAMES} | {"CJK": "Han"}
    sample = [*range(0x250), *range(0x250, 0x11000, 3), *range(0x1B000, 0x1B170), *range(0x20000, 0x31000, 101)]
    for char in filter(str.isalpha, map(chr, sample)):
        name = unicodedata.name(char, "").replace("FULLWIDTH ", "").replace("HALFWIDTH ", "")
        found = [script for script in scripts.NAMES if scripts.share(char, (script,))]
        expected = words.get(name.partition(" ")[0])
        if (
            "KATAKANA-HIRAGANA" in name
            or "IDEOGRAPHIC" in name
            or "ORDINAL INDICATOR" in name
            or name.startswith("MODIFIER")
        ):
            continue  # shared, or named otherwise
        assert found == ([expected] if expected else []), (hex(ord(char)), name)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("two words", ["two", "words"]),
        ("你好，world！ “我”", ["你", "好，", "world！", "“我”"]),
        ("かな kana 한국어", ["か", "な", "kana", "한국어"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert scripts.words(text) == expected
