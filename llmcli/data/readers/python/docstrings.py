"""Docstrings taken apart: summary, body, and what is said of parameters, results and errors.

Three layouts are understood, those of NumPy (`Parameters` underlined), Google (`Args:`) and Sphinx (`:param x:`).
Places are characters of the text, which stands as `ast.get_docstring` gives it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SUMMARY = 120  # characters; PEP 257 wants one line
MAX_MEANING = 200

_BLANK = re.compile(r"\n[ \t]*\n")
_NUMPY_SECTION = re.compile(r"^(?P<title>[A-Z][A-Za-z ]+)\n-{3,}[ \t]*$", re.MULTILINE)
_NUMPY_ENTRY = re.compile(r"^(?P<name>\*{0,2}\w+)[ \t]*(?::[ \t]*(?P<type>[^\n]*\S))?[ \t]*$", re.MULTILINE)
_GOOGLE_SECTION = re.compile(r"^(?P<indent>[ \t]*)(?P<title>Args|Arguments|Parameters):[ \t]*$", re.MULTILINE)
_GOOGLE_ENTRY = re.compile(
    r"^(?P<indent>[ \t]+)(?P<name>\*{0,2}\w+)[ \t]*(?:\((?P<type>[^()\n]*(?:\([^()\n]*\)[^()\n]*)*)\))?:", re.MULTILINE
)
_SPHINX_ENTRY = re.compile(r"^[ \t]*:param[ \t]+(?:(?P<type>[\w.\[\], |]+)[ \t]+)?(?P<name>\*{0,2}\w+):", re.MULTILINE)
_SPHINX_FIELD = re.compile(r"^[ \t]*:\w+[^\n:]*:", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.;](?=\s|$)")
_NOT_PROSE = re.compile(
    r"^[ \t]*(?:\.\. |>>> |[-=~^]{3,}|[-*+\d]\.? |:\w+[^:]*:|[A-Z][\w ]*:[ \t]*$|[|+])", re.MULTILINE
)

Span = tuple[int, int]


@dataclass(frozen=True)
class Parameter:
    """What a docstring says of one parameter: where its type and the first sentence of its meaning stand."""

    name: str
    type: Span | None
    meaning: Span | None


def summary_and_body(text: str) -> tuple[str, str] | None:
    """The one-line summary and what follows it; None where the first paragraph is no such line."""
    first, *rest = _BLANK.split(text.strip(), maxsplit=1)
    summary = " ".join(first.split())
    whole = summary[-1:].isalnum() or summary.endswith((".", ")", "`"))
    if not rest or len(summary) > MAX_SUMMARY or not whole:
        return None
    plain = sum(char.isalpha() or char == " " for char in summary) >= 0.75 * len(summary)
    return (summary, rest[0].strip()) if plain and len(summary.split()) >= 3 else None


def prose(text: str) -> str:
    """The paragraphs of a docstring before its first section, list or example."""
    paragraphs = []
    for paragraph in _BLANK.split(text.strip()):
        if _NOT_PROSE.search(paragraph):
            break
        paragraphs.append(" ".join(paragraph.split()))
    return "\n".join(paragraphs)


def parameters(text: str) -> list[Parameter]:
    """What the text says of parameters, in its order, the first time it does so for each."""
    found: dict[str, Parameter] = {}
    for parameter in (*_numpy(text), *_google(text), *_sphinx(text)):
        found.setdefault(parameter.name, parameter)
    return sorted(found.values(), key=lambda each: (each.meaning or each.type or (0, 0))[0])


def _numpy(text: str) -> Iterator[Parameter]:
    sections = list(_NUMPY_SECTION.finditer(text))
    for number, section in enumerate(sections):
        if section["title"] not in ("Parameters", "Other Parameters"):
            continue
        end = sections[number + 1].start() if number + 1 < len(sections) else len(text)
        entries = list(_NUMPY_ENTRY.finditer(text, section.end() + 1, end))
        for index, entry in enumerate(entries):
            stop = entries[index + 1].start() if index + 1 < len(entries) else end
            kind = entry.span("type") if entry["type"] else None
            yield Parameter(entry["name"].lstrip("*"), kind, _meaning(text, entry.end(), stop))


def _google(text: str) -> Iterator[Parameter]:
    for section in _GOOGLE_SECTION.finditer(text):
        end = _end_of_block(text, section.end() + 1, len(section["indent"]))
        entries = list(_GOOGLE_ENTRY.finditer(text, section.end() + 1, end))
        level = min((len(entry["indent"]) for entry in entries), default=0)
        entries = [entry for entry in entries if len(entry["indent"]) == level]
        for index, entry in enumerate(entries):
            stop = entries[index + 1].start() if index + 1 < len(entries) else end
            kind = entry.span("type") if entry["type"] else None
            yield Parameter(entry["name"].lstrip("*"), kind, _meaning(text, entry.end(), stop))


def _sphinx(text: str) -> Iterator[Parameter]:
    for entry in _SPHINX_ENTRY.finditer(text):
        following = _SPHINX_FIELD.search(text, entry.end())
        blank = _BLANK.search(text, entry.end())
        stop = min(found.start() for found in (following, blank) if found) if following or blank else len(text)
        kind = entry.span("type") if entry["type"] else None
        yield Parameter(entry["name"].lstrip("*"), kind, _meaning(text, entry.end(), stop))


def _end_of_block(text: str, start: int, indent: int) -> int:
    """Where the lines that are indented deeper than `indent` end."""
    at = start
    for line in text[start:].splitlines(keepends=True):
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        at += len(line)
    return at


def _meaning(text: str, start: int, stop: int) -> Span | None:
    """The first sentence between two places, without the white space around it; None where it says nothing in words."""
    blank = _BLANK.search(text, start, stop)
    part = text[start : blank.start() if blank else stop]
    begin = start + len(part) - len(part.lstrip())
    sentence = _SENTENCE_END.search(text, begin, start + len(part))
    end = sentence.start() if sentence else begin + len(part.strip())
    words = text[begin:end].split()
    wordy = len(words) >= 2 and end - begin <= MAX_MEANING and not _NOT_PROSE.search(text, begin, end)
    return (begin, end) if wordy else None
