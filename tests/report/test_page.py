"""Pages are whole, fetch nothing, and show the text of others as text."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.report import page

EVIL = "<script>alert('x')</script> & \"quoted\" </pre><img src=http://example.org/x.png onerror=go()>"


class Reader(HTMLParser):
    """Elements that were left open, tags with their attributes, and the text."""

    VOID = ("meta", "br", "img")

    def __init__(self, content):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def whole(text):
    return page.page(
        text,
        text,
        page.warnings([{"what": text, "do": text}]),
        page.section(text, page.table((text, "n"), [(text, 1), (text, None)]), page.text(text, "before"), note=text),
        page.grid([page.panel(text, page.bars({text: 3, "b": 1}, unit="%"))]),
        page.histogram([0, 5, 10], [3, 4], unit=text),
    )


def check(content):
    found = Reader(content)
    assert found.open == []
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "base", "form", "use", "image"}
    for _, attributes in found.tags:
        assert not any(name in ("src", "href", "xlink:href", "style") or name.startswith("on") for name in attributes)
    assert "url(" not in content and "@import" not in content
    return found


def test_text_of_others_is_text():
    found = check(whole(EVIL))
    assert found.text.count(EVIL) >= 8
    assert "http://" not in whole("a text")


@given(st.text())
def test_any_text_makes_a_whole_page(text):
    content = whole(text)
    check(content)
    content.encode("utf-8")
    assert "\0" not in content


def test_tables_have_numbers_on_the_right():
    made = page.table(("name", "n", "share"), [("a", 1234, 0.5), ("b", None, None)])
    assert made.count('<th class="right">') == 2
    assert '<td class="right">1,234</td><td class="right">0.500</td>' in made
    assert page.table(("name",), []).count("<tr>") == 1


def test_bars_are_as_long_as_their_values():
    widths = [
        float(attributes["width"])
        for tag, attributes in Reader(page.bars({"a": 30, "b": 15, "c": 0})).tags
        if tag == "rect"
    ]
    assert widths == [200.0, 100.0, 0.5]
    assert "30 · 66.7%" in page.bars({"a": 30, "b": 15}, unit="%")


def test_histograms_say_their_edges_and_counts():
    found = Reader(page.histogram([0, 10, 20, 40], [2, 0, 4], unit="tokens"))
    bars = [attributes for tag, attributes in found.tags if tag == "rect"]
    assert [float(each["height"]) for each in bars] == pytest.approx([52.0, 0.0, 104.0])
    assert "0 to 9 tokens: 2" in found.text and "20 to 39 tokens: 4" in found.text


def test_control_characters_are_spelt_out():
    assert page.visible("a\x00\x1b[31m\ud800\tb\n") == "a\\x00\\x1b[31m\\xd800\tb\n"
