"""HTML to text, after the rules for innerText in the HTML standard, with Lexbor's parser."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmcli.errors import require

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_MARKUP = re.compile(r"<[a-zA-Z/!?]")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_SURROGATES = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\n\f\r]+")  # the white space of HTML, which leaves no-break and ideographic spaces alone


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_PARAGRAPHS = _names("p h1 h2 h3 h4 h5 h6 blockquote pre table figure hr")  # a blank line around
_BLOCKS = _names(  # a line of their own
    "address article aside body caption center dd details dialog dir div dl dt fieldset figcaption footer form header "
    "hgroup html legend li main menu nav ol optgroup option search section summary tbody tfoot thead tr ul"
)
_MAX_DEPTH = 512  # where Chrome stops nesting, too
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
# These do not nest: empty elements, elements that hold raw text, and those that the next of their kind ends.
_FLAT = _names(
    "area base br col embed hr img input link meta param source track wbr script style title textarea iframe xmp p li "
    "dt dd td th tr tbody thead tfoot option"
)
_DRAWN = _names("circle ellipse line path polygon polyline rect stop use")  # these do not when they end in "/>"


def html_to_text(text: str, *, drop: Sequence[str], bullet: str, cell: str, alt: bool) -> str:
    """The text that a page shows: entities resolved, blocks on lines of their own, a blank line around paragraphs.

    drop: elements left out with all they hold. bullet: what stands before a list item. cell: what stands between
    the cells of a table's row. alt: images are replaced by their alternative text. `pre` keeps its white space. Text
    without any tag is not reflowed. What lies deeper than 512 elements loses its own tags, not its text: the parser
    takes quadratic time on such input.
    """
    if not _MARKUP.search(text):
        return _ENTITY.sub(lambda found: html.unescape(found[0]), text) if "&" in text else text
    lexbor = require("selectolax.lexbor", extra="text", purpose="clean=[html]")
    source = _SURROGATES.sub("\ufffd", _flatten(text))  # halves of a pair have no UTF-8, which the parser reads
    page = _Page(bullet, cell)
    if root := lexbor.LexborHTMLParser(source).root:
        _walk(root, page, frozenset(drop), alt)
    return page.text() + ("\n" if text.endswith("\n") else "")


def _flatten(text: str) -> str:
    """The page without start tags that would nest deeper than _MAX_DEPTH, as far as counting tags can tell."""
    open_tags: Counter[str] = Counter()
    depth, kept, parts = 0, 0, []
    for found in _TAG.finditer(text):
        name = found[2].lower()
        if name in _FLAT or (name in _DRAWN and text[text.find(">", found.end()) - 1] == "/"):
            continue
        if not found[1]:
            if depth == _MAX_DEPTH:
                parts.append(text[kept : found.start()])
                kept = (text.find(">", found.end()) + 1) or len(text)
                continue
            open_tags[name] += 1
            depth += 1
        elif open_tags[name]:
            open_tags[name] -= 1
            depth -= 1
    return "".join((*parts, text[kept:])) if parts else text


def _walk(root: LexborNode, page: _Page, drop: frozenset[str], alt: bool) -> None:
    """Give the page's elements and words to `page` in their order; a loop, because nesting is up to the input."""
    path: list[tuple[str, Iterator[LexborNode]]] = [("", root.iter(include_text=True))]
    while path:
        for node in path[-1][1]:
            name = node.tag or ""
            if name == "-text":
                page.line.append(node.text_content or "")
            elif name == "img":
                page.line.append((node.attributes.get("alt") or "") if alt else "")
            elif name not in drop and not name.startswith("-"):  # "-comment", "-doctype"
                page.enter(name)
                path.append((name, node.iter(include_text=True)))
                break
        else:
            page.leave(path.pop()[0])


class _Page:
    """The text so far: what is written, the line at hand, and what comes before the next words."""

    def __init__(self, bullet: str, cell: str) -> None:
        self.bullet, self.cell = bullet, cell
        self.written: list[str] = []
        self.line: list[str] = []
        self.breaks = 0  # newlines due before the next words
        self.prefix = ""  # the bullet of an item that has no words yet
        self.in_cell = False  # the next words are a cell's first: blocks inside do not break the row
        self.cells, self.row_start = 0, 0  # cells of the row that are behind us; how much was written before it
        self.verbatim = 0  # how many `pre` are open

    def enter(self, name: str) -> None:
        if name == "br":
            self._end_line()
            self.breaks += not self.in_cell
        elif name in ("td", "th"):
            self._end_line()
            if self.cells:
                self._write(self.cell)
            self.in_cell = True
        elif name in _PARAGRAPHS or name in _BLOCKS:
            self._block(name)
            if name == "li":
                self.prefix = self.bullet
            elif name == "tr":
                self.cells, self.row_start = 0, len(self.written)
            elif name == "pre":
                self.verbatim += 1

    def leave(self, name: str) -> None:
        if name in ("td", "th"):
            self._end_line()
            self.cells += 1
            if len(self.written) > self.row_start:
                self.breaks = 0
        elif name in _PARAGRAPHS or name in _BLOCKS:
            self._end_line()
            if name == "li":
                self.prefix = ""
            elif name == "tr":
                self.in_cell = False
            elif name == "pre":
                self.verbatim -= 1
            self._block(name)

    def text(self) -> str:
        self._end_line()
        return "".join(self.written)

    def _block(self, name: str) -> None:
        self._end_line()
        if not (self.prefix or self.in_cell):
            self.breaks = max(self.breaks, 2 if name in _PARAGRAPHS else 1)

    def _end_line(self) -> None:
        text = "".join(self.line)
        self.line.clear()
        text = text.strip("\n") if self.verbatim else _SPACE.sub(" ", text).strip(" ")
        if text:
            self._write(self.prefix + text)
            self.prefix, self.in_cell = "", False

    def _write(self, text: str) -> None:
        self.written += ("\n" * self.breaks if self.written else "", text)
        self.breaks = 0
