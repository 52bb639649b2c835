"""report.html of `llm eval` for texts that a run made of sources: the figures, how the texts score, single examples.

Whatever comes from data is escaped.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from llmcli.report.page import grid, histogram, page, panel, safe, section, table
from llmcli.text.segment.base import UNSPACED

WORST = 30  # texts of the lowest chrF that are shown
OTHERS = 15  # and others, chosen at random
_LONGEST = 1500  # characters of a text that are shown
_STEP = 5  # of chrF, in percent, for each bar
# a word, one character of a script without spaces, white space, anything else
_PIECE = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|\s+|.", re.DOTALL)

_STYLE = """
:root { --new: #c0392b; --same: #2e8b57; }
@media (prefers-color-scheme: dark) { :root { --new: #ff8a7a; --same: #6fcf97; } }
.example { border-left: 3px solid var(--line); padding: .1rem 0 .1rem .9rem; margin: 0 0 1.2rem; }
.example.right { border-color: var(--same); }
.example p { margin: .15rem 0; max-width: none; white-space: pre-wrap; overflow-wrap: anywhere; }
.example b { display: inline-block; min-width: 5.5rem; color: var(--dim); font-weight: 600; }
mark { color: inherit; padding: 0 .05em; border-radius: 2px; }
mark.new { background: color-mix(in srgb, var(--new) 24%, transparent); }
mark.missing { background: none; border-bottom: 2px solid var(--same); }
"""
_LEGEND = (
    '<p>Marked: <mark class="new">in the text, not in the reference</mark> · '
    '<mark class="missing">in the reference, not in the text</mark></p>'
)


@dataclass(frozen=True)
class DecodedFigures:
    """All that the page shows. subtitle: which run on which data.

    figures: one row each, of `headers`. outcomes: of each example in the order of the split `source`, `reference`,
    `text`, `right` and scores, `chrf` among them.
    """

    subtitle: str
    headers: Sequence[str]
    figures: Sequence[Sequence[Any]]
    note: str
    outcomes: Sequence[Mapping[str, Any]]


def decoded_report(found: DecodedFigures) -> str:
    """The page."""
    scores = [outcome["chrf"] for outcome in found.outcomes]
    order = sorted(range(len(scores)), key=lambda number: (scores[number], number))
    worst, rest = order[:WORST], order[WORST:]
    others = sorted(random.Random(0).sample(rest, min(OTHERS, len(rest))))  # the same ones each time
    edges = [*range(0, 101, _STEP), 101]  # the last bar is of texts that are their references
    counts = [sum(low <= score < high for score in scores) for low, high in pairwise(edges)]
    parts = [
        section("Figures", table(found.headers, found.figures), note=found.note),
        section("Single texts", grid([panel("How many texts have which chrF", histogram(edges, counts, unit="chrF"))])),
        section("Worst texts", _LEGEND, *_examples(found.outcomes, worst), note="Of the lowest chrF."),
    ]
    if others:
        parts.append(section("Some others", _LEGEND, *_examples(found.outcomes, others), note="Chosen at random."))
    return page("Evaluation", found.subtitle, *parts, style=_STYLE)


def _examples(outcomes: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> Iterator[str]:
    for number in numbers:
        outcome = outcomes[number]
        scores = [f"{name} {value:.1f}" for name, value in outcome.items() if _is_score(name, value)]
        head = " · ".join([f"line {number + 1:,}", *scores])  # of predictions.jsonl
        text, reference = _compared(_cut(outcome["text"]), _cut(outcome["reference"]))
        lines = {"source": safe(_cut(outcome["source"])), "reference": reference, "text": text}
        yield (
            f'<div class="example {"right" if outcome["right"] else ""}"><p class="dim">{safe(head)}</p>'
            + "".join(f"<p><b>{name}</b> {content}</p>" for name, content in lines.items())
            + "</div>"
        )


def _is_score(name: str, value: Any) -> bool:
    return isinstance(value, float) and name != "loss"


def _compared(text: str, reference: str) -> tuple[str, str]:
    """Both as HTML, with what only one of them has marked."""
    ours, theirs = _PIECE.findall(text), _PIECE.findall(reference)
    a, b = ([piece.lower() for piece in side] for side in (ours, theirs))
    left, right = [], []
    for kind, start, end, first, last in SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes():
        left.append(_marked("".join(ours[start:end]), "" if kind == "equal" else "new"))
        right.append(_marked("".join(theirs[first:last]), "" if kind == "equal" else "missing"))
    return "".join(left), "".join(right)


def _marked(text: str, kind: str) -> str:
    return f'<mark class="{kind}">{safe(text)}</mark>' if kind and text.strip() else safe(text)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
