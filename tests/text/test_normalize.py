"""Code points, encodings, line ends, white space, width, punctuation: exact outcomes; every option changes one."""

from __future__ import annotations

import string
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import InputError


@pytest.mark.parametrize(
    "name, options, text, expected",
    [
        ("unicode", {}, "e\u0301 ﬁ", "é ﬁ"),
        ("unicode", {"form": "NFD"}, "é", "e\u0301"),
        ("unicode", {"form": "NFKC"}, "e\u0301 ﬁ", "é fi"),
        ("newlines", {}, "a\r\nb\rc\n", "a\nb\nc\n"),
        ("lowercase", {}, "ÀB Σ中", "àb σ中"),
        # mojibake: UTF-8 read as Windows-1252; and each of ftfy's judgements
        ("mojibake", {}, "cafÃ© â€œniceâ€\x9d", "café “nice”"),
        ("mojibake", {}, "ä¸­æ–‡", "中文"),
        ("mojibake", {}, "voilÃ  le travail", "voilà le travail"),
        ("mojibake", {"restore_byte_a0": False}, "voilÃ  le travail", "voilà  le travail"),
        ("mojibake", {}, "fois â€“ dÃ©jÃ� vu", "fois – déj� vu"),
        ("mojibake", {"replace_lossy_sequences": False}, "fois â€“ dÃ©jÃ� vu", "fois – déjÃ� vu"),
        ("mojibake", {}, "fine — broken â€”\nÃ©tÃ©", "fine — broken —\nété"),
        ("mojibake", {"decode_inconsistent_utf8": False}, "fine — broken â€”\nÃ©tÃ©", "fine — broken â€”\nété"),
        ("mojibake", {}, "\x93low\x94 中", "“low” 中"),
        ("mojibake", {"fix_c1_controls": False}, "\x93low\x94 中", "\x93low\x94 中"),
        # nothing but encodings: quotes, width, ligatures, entities, line ends, control characters stay
        ("mojibake", {}, "“ﬁ” ｆｕｌｌ，&eacute; é\r\n\x07", "“ﬁ” ｆｕｌｌ，&eacute; é\r\n\x07"),
        ("control", {}, "\ufeffa\x00b\u200bc\u202ed\xade\u2066f\tg\nh\r\n", "abcdef\tg\nh\r\n"),
        ("control", {}, "one\u2028two\vthree\x85four", "one\ntwo\nthree\nfour"),
        ("control", {}, "\ud83d \udc00", "\ufffd \ufffd"),
        ("control", {}, "👩\u200d👩 می\u200cخواهم", "👩\u200d👩 می\u200cخواهم"),
        ("control", {"keep": ""}, "👩\u200d👩 می\u200cخواهم", "👩👩 میخواهم"),
        ("control", {"keep": "\u200f"}, "a\u200fb\u200dc", "a\u200fbc"),
        ("whitespace", {}, "  a \t b\xa0\xa0c  \n \n\n\n　　d\u3000e \n", "a b c\n\nd e\n"),
        ("whitespace", {"max_newlines": 1}, "a\n\n\nb", "a\nb"),
        ("whitespace", {"max_newlines": 3}, "a\n\n\n\nb", "a\n\n\nb"),
        (
            "whitespace",
            {"keep_indent": True},
            "\n  def f():  \n\n        return  x\n",
            "  def f():\n\n        return x\n",
        ),
        ("whitespace", {}, "last word ", "last word "),
        ("half_width", {}, "Ａｂ１２　，（ｘ）中", "Ab12 ，（x）中"),
        ("half_width", {"punctuation": True}, "Ａ１，（ｘ）～", "A1,(x)~"),
        ("half_width", {"space": False}, "Ａ　Ｂ", "A　B"),
        ("full_width", {}, "Ab12 ,(x)中", "Ａｂ１２ ,(ｘ)中"),
        ("full_width", {"punctuation": True}, "a,~", "ａ，～"),
        ("full_width", {"space": True}, "a b", "ａ　ｂ"),
        ("punctuation", {}, "Don't — stop, “now”! 好，《书》。", "Dont  stop now 好书"),
        ("punctuation", {"keep": "'，"}, "Don't, 好，吧。", "Don't 好，吧"),
        ("punctuation", {"replacement": " "}, "a-b，c", "a b c"),
        ("punctuation", {"languages": ["zh"]}, "a.b，c。", "a.bc"),
        ("punctuation", {"languages": ["en"]}, "a.b，c。", "ab，c。"),
        ("ascii_punctuation", {}, "他说：“好，走。”——《书》……（完）", '他说:"好,走."--<书>...(完)'),
        ("ascii_punctuation", {"space_after": True}, "他说：好，走。３：４", "他说: 好, 走.３:４"),
    ],
)
def test_outcomes(step, name, options, text, expected):
    assert step(name, **options)(text) == expected


def test_errors(step):
    with pytest.raises(InputError, match=r"clean.whitespace.max_newlines \(0\) must be at least 1"):
        step("whitespace", max_newlines=0)("a")


def test_control_characters_are_those_of_unicode(step):
    """What the categories call control (Cc) or format (Cf) goes, but for the named exceptions."""
    everything = "".join(map(chr, range(0x110000)))
    removed = set(everything) - set(step("control", keep="")(everything))
    categories = {char: unicodedata.category(char) for char in everything}
    kept = set(b"\t\n\r")
    # visible or meaningful: number signs of Arabic, Syriac and Kaithi, shorthand, hieroglyph and musical controls
    kept |= {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    kept |= {*range(0x13430, 0x13456), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)}
    format_or_control = {char for char, category in categories.items() if category in ("Cc", "Cf")}
    assert {ord(char) for char in format_or_control - removed} <= kept  # newer versions of Unicode add some of these
    others = {categories[char] for char in removed} - {"Cc", "Cf"}
    assert others == {"Cs", "Zl", "Zp", "Cn"}  # surrogates, line and paragraph separators, non-characters


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet=string.printable + "，。　ａＺ９～"))
def test_full_width_and_back(step, text):
    ascii_text = step("half_width", punctuation=True)(text).translate({ord(mark): None for mark in "，。"})
    wide = step("full_width", punctuation=True, space=True)(ascii_text)
    assert step("half_width", punctuation=True, space=True)(wide) == ascii_text
    assert not any("!" <= char <= "~" for char in wide)


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet=" \t\n\xa0\u3000ab中"), st.integers(1, 3), st.booleans())
def test_whitespace_is_tidy_and_words_stay(step, text, max_newlines, keep_indent):
    tidy = step("whitespace", max_newlines=max_newlines, keep_indent=keep_indent)(text)
    assert tidy.split() == text.split()
    assert "\n" * (max_newlines + 1) not in tidy
    for line in tidy.split("\n")[:-1]:
        assert line == line.rstrip()
        assert "  " not in line.lstrip() and "\t" not in line.lstrip()
        assert keep_indent or line == line.lstrip()
    if not keep_indent:
        assert tidy == tidy.lstrip()


@pytest.mark.parametrize("keep_indent", [False, True])
@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(alphabet=" \tab中", max_size=6), max_size=8), st.integers(0, 8))
def test_whitespace_sees_pieces_as_it_sees_the_whole(step, keep_indent, lines, at):
    """Cut after a line; a run of line ends is the exception, because nobody knows how many came before."""
    clean = step("whitespace", keep_indent=keep_indent)
    lines = [line.strip() or "x" for line in lines]
    before, after = "".join(f"{line}\n" for line in lines[:at]), "".join(f" {line} \n" for line in lines[at:])
    assert clean(before) + clean(after) == clean(before + after)
