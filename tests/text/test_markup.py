"""HTML to text: the structure that a browser shows; scripts never; hostile nesting in linear time."""

from __future__ import annotations

import html as escapes
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

TAGS = ["<p>", "</p>", "<b>", "<ul>", "<li>", "<td>", "<table>", "<tr>", "<pre>", "<div>", "</div>", "<br>", " x "]
TABLE = "<table><tr><th>A<th>B<tr><td><p>1</p><td><tr><td><td>x</table>after"


@pytest.mark.parametrize(
    "options, text, expected",
    [
        ({}, "a &amp; b &#x4e2d;&nbsp;&lt;", "a & b 中\xa0<"),  # no tag: entities alone, white space as it is
        ({}, "two\nlines, x < y & z, /?a=1&copy=2", "two\nlines, x < y & z, /?a=1&copy=2"),
        ({}, "<p>one<p>two <b>bo</b>ld  x\n y</p>tail", "one\n\ntwo bold x y\n\ntail"),
        ({}, "<div>x<div>y</div><span>z</span></div>", "x\ny\nz"),
        ({}, "a<br>b<br/><br>c", "a\nb\n\nc"),
        ({}, "<h1>H</h1>text<hr>more", "H\n\ntext\n\nmore"),
        ({}, "中文<b>加粗</b>，<i>斜体</i>。\n", "中文加粗，斜体。\n"),
        ({}, "<title>T</title><script>var a = '<p>x</p>'</script>hi<style>p{}</style><!-- c --> there", "hi there"),
        ({}, "a<template><p>b</p></template><noscript>c</noscript>d", "ad"),
        ({"drop": ["nav"]}, "<nav>home<p>x</p></nav>a<button>b</button>", "ab"),
        ({}, "<nav>home</nav>a<button>b</button>", "home\na"),
        ({}, "<ul><li>a<ul><li>b</ul><li><p>c</ul>z", "- a\n- b\n- c\n\nz"),
        ({"bullet": "* "}, "<ol><li>a</li><li></li><li>b</li></ol>", "* a\n* b"),
        ({}, TABLE, "A\tB\n1\t\n\tx\n\nafter"),
        ({"cell": " | "}, TABLE, "A | B\n1 | \n | x\n\nafter"),
        ({}, "<p>a</p><pre>\n  x  <b>=</b>\n    y &lt;\n</pre>z", "a\n\n  x  =\n    y <\n\nz"),
        ({}, "see <img src=x alt='a cat'> here", "see here"),
        ({"alt": True}, "see <img src=x alt='a cat'><img> here", "see a cat here"),
        ({}, "<p> </p><html></html>", ""),
        ({}, "<b>\ud83d</b>", "\ufffd"),
    ],
)
def test_outcomes(step, options, text, expected):
    assert step("html", **options)(text) == expected


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_escaped_text_comes_back(step, text):
    """What a page shows is what was written into it, but for white space, which HTML does not tell apart."""
    shown = step("html")(f"<p>{escapes.escape(text)}</p>")
    # the parser reads CR as LF and drops NUL, as the standard says
    expected = text.replace("\r", "\n").replace("\x00", "")
    assert "".join(shown.split()) == "".join(expected.split())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(TAGS)))
def test_broken_markup_keeps_its_words(step, tags):
    text = step("html")("first" + "".join(tags) + "last")
    assert "first" in text and "last" in text  # the parser moves what may not stand in a table before it
    assert "<" not in text


@pytest.mark.parametrize(
    "hostile",
    [
        "<div>",
        "<b>",
        "<i></p>",
        "<rt>",
        "<optgroup>",
        "<path>",
        "<div></span>",
        "<x y='<p>'>",
        "<a ",
        "<table><td>",
        "<",
    ],
)
def test_nesting_costs_linear_time(step, hostile):
    """The parser alone takes minutes for 200,000 characters of some of these."""
    begin = time.process_time()
    step("html")(hostile * (200_000 // len(hostile)) + "<hr>" * 1000 + "end")
    assert time.process_time() - begin < 5


def test_what_is_too_deep_loses_tags_but_no_text(step):
    deep = "".join(f"<div>{number} " for number in range(2000))
    assert step("html")(deep).split() == [str(number) for number in range(2000)]
    drawn = "<svg>" + "<path d='M0 0'/>" * 2000 + "</svg><p>a</p><p>b</p>"  # these do not nest
    assert step("html")(drawn) == "a\n\nb"
