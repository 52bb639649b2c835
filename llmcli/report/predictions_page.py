"""report.html of `llm eval`: the figures of a split, its classes, how far confidence can be trusted, single examples.

Whatever comes from data is escaped; what a task gives besides is shown as it is named (`tasks.base.ScoresExamples`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llmcli.report.page import page, safe, section, table

MOST_CLASSES = 30  # of a confusion matrix that can be read; of more the most confused pairs are listed
PAIRS = 40
_LONGEST = 1200  # characters of a text that are shown
_BEFORE = 300  # of them before the first span, where there are spans
_SHOWN = ("text", "texts", "tokens", "spans", "true", "predicted", "right", "loss", "probability")
_HEATS = 10  # shades of the cells of a confusion matrix

_STYLE = """
:root { --true: #b8860b; --predicted: #c0392b; --both: #2e8b57; }
@media (prefers-color-scheme: dark) { :root { --true: #e6b94d; --predicted: #ff8a7a; --both: #6fcf97; } }
.example { border-left: 3px solid var(--both); padding: .1rem 0 .1rem .9rem; margin: 0 0 1rem; }
.example.wrong { border-color: var(--predicted); }
.example p { margin: .1rem 0; max-width: none; } .example .text { white-space: pre-wrap; overflow-wrap: anywhere; }
mark { color: inherit; background: none; padding: 0 .1em; border-radius: 2px; }
mark.true { border-bottom: 3px solid var(--true); }
mark.predicted { background: color-mix(in srgb, var(--predicted) 28%, transparent); }
mark.both { background: color-mix(in srgb, var(--both) 30%, transparent); border-bottom: 3px solid var(--both); }
mark sub { color: var(--dim); margin-left: .2em; }
table.matrix td { border: 1px solid var(--line); padding: .2rem .5rem; text-align: right; }
table.matrix th { padding: .2rem .5rem; } table.matrix small { display: block; color: var(--dim); }
svg.small { max-width: 30rem; } svg .gap { fill: var(--predicted); opacity: .55; } svg .ideal { stroke: var(--dim); }
""" + "".join(
    f".heat{i} {{ background: color-mix(in srgb, var(--bar) {5 + 50 * i // _HEATS}%, transparent); }}\n"
    for i in range(_HEATS + 1)
)


@dataclass(frozen=True)
class Evaluated:
    """All that the page shows. subtitle: which run on which data.

    figures: one row each, of `headers`. classes: figures of each class by name. confusion: examples by (true,
    predicted). bins: calibration as (examples, mean confidence, share right) of each bin that has examples. hardest,
    right: (number, outcome).
    """

    subtitle: str
    headers: Sequence[str]
    figures: Sequence[Sequence[Any]]
    note: str
    classes: Mapping[str, Mapping[str, float]]
    confusion: Counter[tuple[str, str]]
    bins: Sequence[tuple[int, float, float]]
    hardest: Sequence[tuple[int, Mapping[str, Any]]]
    right: Sequence[tuple[int, Mapping[str, Any]]]


def report(found: Evaluated) -> str:
    """The page; sections with nothing to show are left out."""
    parts = [section("Figures", table(found.headers, found.figures), note=found.note)]
    if found.classes:
        parts.append(section("Classes", _classes(found.classes)))
    if found.confusion:
        parts.append(_confusion(found.confusion, list(found.classes)))
    if found.bins:
        parts.append(
            section(
                "Calibration",
                _reliability(found.bins),
                note="Bars: the share of answers that are right, by their confidence. On the diagonal confidence means "
                "what it says; red is what lies between. Point at a bar for its numbers.",
            )
        )
    marked = any("spans" in outcome for _, outcome in (*found.hardest, *found.right))
    legend = _LEGEND if marked else ""
    parts.append(section("Hardest examples", legend, *_examples(found.hardest), note="Of the highest loss."))
    if found.right:
        parts.append(section("Some that are right", legend, *_examples(found.right), note="Chosen at random."))
    return page("Evaluation", found.subtitle, *parts, style=_STYLE)


# -- classes ---------------------------------------------------------------------------------------------------------


def _classes(classes: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(name for figures in classes.values() for name in figures))
    rows = [[name, *(_whole(figures.get(column)) for column in columns)] for name, figures in classes.items()]
    return table(["class", *columns], rows)


def _whole(value: float | None) -> float | None:
    """Counts have come as floats."""
    return int(value) if value is not None and float(value).is_integer() and value > 1 else value


def _confusion(confusion: Counter[tuple[str, str]], names: Sequence[str]) -> str:
    totals: Counter[str] = Counter()
    for (true, _), count in confusion.items():
        totals[true] += count
    if len(names) > MOST_CLASSES:
        mistakes = [(pair, count) for pair, count in confusion.most_common() if pair[0] != pair[1]][:PAIRS]
        rows = [(*pair, count, f"{count / totals[pair[0]]:.1%}") for pair, count in mistakes]
        return section(
            "Most confused",
            table(("true", "predicted", "examples", "of the true class"), rows),
            note=f"The {len(mistakes)} most frequent mistakes among {len(names)} classes.",
        )
    head = "".join(f"<th>{safe(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{safe(true)}</th>{''.join(_cell(confusion[true, name], totals[true]) for name in names)}</tr>"
        for true in names
    )
    matrix = f'<table class="matrix"><tr><th>true \\ predicted</th>{head}</tr>{body}</table>'
    return section(
        "Confusion matrix",
        f'<div class="scroll">{matrix}</div>',
        note="Rows are true classes, columns predicted ones; the shares are of the row.",
    )


def _cell(count: int, total: int) -> str:
    if not count:
        return "<td></td>"
    share = count / total
    return f'<td class="heat{round(share * _HEATS)}">{count:,}<small>{share:.1%}</small></td>'


# -- calibration -----------------------------------------------------------------------------------------------------


def _reliability(bins: Sequence[tuple[int, float, float]]) -> str:
    """Accuracy over mean confidence, each bar as wide as one bin of `bins` could be."""
    width, height, left, foot, top = 440, 300, 40, 34, 8
    span_x, span_y = width - left - 20, height - foot - top

    def x(share: float) -> float:
        return left + span_x * share

    def y(share: float) -> float:
        return top + span_y * (1 - share)

    parts = [f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(0)}"/>']
    bar = span_x / 15 - 2
    for examples, confidence, accuracy in bins:
        low, high = sorted((confidence, accuracy))
        said = f"{examples:,} examples: {confidence:.1%} confident, {accuracy:.1%} right"
        at = min(max(x(confidence) - bar / 2, left), x(1) - bar)
        parts.append(
            f'<g><title>{said}</title><rect x="{at:.1f}" y="{y(accuracy):.1f}" width="{bar:.1f}" '
            f'height="{span_y * accuracy:.1f}"/><rect class="gap" x="{at:.1f}" y="{y(high):.1f}" width="{bar:.1f}" '
            f'height="{max(span_y * (high - low), 0.5):.1f}"/></g>'
        )
    parts.append(f'<line class="ideal" stroke-dasharray="4 3" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<text x="{x(share):.0f}" y="{height - foot + 15}" text-anchor="middle">{share:.0%}</text>')
        parts.append(f'<text x="{left - 6}" y="{y(share) + 4:.0f}" text-anchor="end">{share:.0%}</text>')
    parts.append(f'<text x="{x(0.5):.0f}" y="{height - 3}" text-anchor="middle">confidence</text>')
    return f'<svg class="small" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


# -- examples --------------------------------------------------------------------------------------------------------

_LEGEND = (
    '<p>Marked: <mark class="both">true and predicted</mark> · <mark class="true">true, not predicted</mark> · '
    '<mark class="predicted">predicted, not true</mark></p>'
)


def _examples(examples: Sequence[tuple[int, Mapping[str, Any]]]) -> list[str]:
    return [_example(number, outcome) for number, outcome in examples]


def _example(number: int, outcome: Mapping[str, Any]) -> str:
    head = [f"line {number + 1:,}"]  # of predictions.jsonl
    if "spans" not in outcome or not isinstance(outcome["predicted"], list):  # tags are seen where they stand
        head += [f"true: {_said(outcome['true'])}", f"predicted: {_said(outcome['predicted'])}"]
    if "probability" in outcome:
        head.append(f"probability {_said(outcome['probability'])}")
    head.append(f"loss {_said(outcome['loss'])}")
    rest = [f"{name}: {_said(value)}" for name, value in outcome.items() if name not in _SHOWN]
    texts = outcome["texts"] if "texts" in outcome else [outcome["text"]]
    shown = [_marked(texts[0], outcome["spans"])] if "spans" in outcome else [safe(_cut(text)) for text in texts]
    return (
        f'<div class="example {"" if outcome["right"] else "wrong"}"><p class="dim">{safe(" · ".join(head))}</p>'
        + "".join(f'<p class="text">{text}</p>' for text in shown)
        + (f'<p class="dim">{safe(" · ".join(rest))}</p>' if rest else "")
        + "</div>"
    )


def _said(value: Any) -> str:
    """A value on one line, short."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, Mapping):
        return _cut(", ".join(f"{name} {_said(each)}" for name, each in value.items()) or "none")
    if isinstance(value, list | tuple):
        return _cut(", ".join(map(_said, value)) or "none")
    return "none" if value is None else _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _marked(text: str, spans: Sequence[Mapping[str, Any]]) -> str:
    """The text with its spans, which may lie over each other; of a long one the part around the first of them."""
    begin = min((span["start"] for span in spans), default=0)
    first = max(0, begin - _BEFORE) if len(text) > _LONGEST else 0
    last = min(len(text), first + _LONGEST)
    bounds = {place for span in spans for place in (span["start"], span["end"]) if first < place < last}
    parts = ["…" if first else ""]
    for start, end in pairwise([first, *sorted(bounds), last]):
        over = [span for span in spans if span["start"] <= start and end <= span["end"]]
        if not over:
            parts.append(safe(text[start:end]))
            continue
        kinds = " ".join(sorted({span["kind"] for span in over}))
        labels = " ".join(dict.fromkeys(span["label"] for span in over if span["end"] == end and span["label"]))
        label = f"<sub>{safe(labels)}</sub>" if labels else ""
        parts.append(f'<mark class="{safe(kinds)}">{safe(text[start:end])}{label}</mark>')
    return "".join([*parts, "…" if last < len(text) else ""])
