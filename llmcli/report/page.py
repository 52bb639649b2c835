"""One self-contained HTML page: tables, bars and histograms, nothing fetched, light and dark, and on paper.

Every text that comes from data is escaped. Plots are inline SVG in the page's own colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5d6878; --line: #d9dee6; --back: #fff; --panel: #f5f7fa;
  --bar: #2f6fb3; --warn: #9a5b00; --warn-back: #fff6e5; --add: #e3f4e6; --cut: #fbe6e6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ef; --dim: #98a4b5; --line: #333c49; --back: #14181e;
  --panel: #1c222b; --bar: #6aa7e8; --warn: #ffc766; --warn-back: #33280f; --add: #16331d; --cut: #3d1d1f; } }
@media print { :root { color-scheme: light; --ink: #000; --dim: #444; --line: #bbb; --back: #fff; --panel: #fff;
  --bar: #2f6fb3; --warn: #000; --warn-back: #fff; --add: #fff; --cut: #fff; } section { break-inside: avoid-page; }
  .grid { display: block; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "Microsoft YaHei", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
h3 { font-size: .95rem; margin: .8rem 0 .2rem; }
p { margin: .3rem 0 .8rem; max-width: 50rem; } .dim { color: var(--dim); }
table { border-collapse: collapse; margin: .4rem 0 1rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--dim); } .right { text-align: right; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); gap: .5rem 2rem; }
.scroll { overflow-x: auto; }
.warnings { background: var(--warn-back); border-left: 3px solid var(--warn); padding: .6rem 1rem; margin: 1rem 0; }
.warnings ul { margin: .2rem 0; padding-left: 1.1rem; } .warnings b { color: var(--warn); }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 4px; padding: .5rem .7rem;
  margin: .3rem 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13px/1.45 ui-monospace, Consolas, "Noto Sans Mono CJK SC", monospace; }
pre.before { background: var(--cut); } pre.after { background: var(--add); }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--dim); font-size: 11px; }
svg rect { fill: var(--bar); } svg line { stroke: var(--line); }
"""


def page(title: str, subtitle: str, *sections: str, style: str = "") -> str:
    """The whole document; sections are HTML made by the functions below, style is CSS for what they add."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{safe(title)}</title>'
    body = f'<h1>{safe(title)}</h1>\n<p class="dim">{safe(subtitle)}</p>\n' + "\n".join(sections)
    whole = f"<head>{head}<style>{_STYLE}{style}</style></head>\n<body>\n{body}\n</body>"
    return f'<!doctype html>\n<html lang="en">\n{whole}\n</html>\n'


def section(title: str, *parts: str, note: str = "") -> str:
    """A heading, what is to be known about how the figures were taken, and the figures."""
    said = f'<p class="dim">{safe(note)}</p>' if note else ""
    return f"<section><h2>{safe(title)}</h2>{said}{''.join(parts)}</section>"


def panel(title: str, content: str) -> str:
    return f"<div><h3>{safe(title)}</h3>{content}</div>"


def grid(panels: Iterable[str]) -> str:
    """Panels side by side where there is room."""
    return f'<div class="grid">{"".join(panels)}</div>'


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Numbers on the right, with thousands separated; None is an empty cell."""
    cells = [list(row) for row in rows]
    right = [any(map(_is_number, column)) for column in zip(*cells, strict=True)] or [False] * len(headers)
    head = "".join(
        f'<th class="right">{safe(name)}</th>' if number else f"<th>{safe(name)}</th>"
        for name, number in zip(headers, right, strict=True)
    )
    made = [[_cell(value) for value in row] for row in cells]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in made)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def warnings(found: Sequence[Mapping[str, str]]) -> str:
    """A box of what to look at; empty where there is nothing."""
    if not found:
        return ""
    items = "".join(f"<li><b>{safe(each['what'])}</b><br>{safe(each['do'])}</li>" for each in found)
    return f'<div class="warnings"><ul>{items}</ul></div>'


def text(content: str, kind: str = "") -> str:
    """Text as it stands. kind: "", "before" or "after"."""
    return f'<pre class="{kind}">{safe(content)}</pre>'


def bars(values: Mapping[str, float], *, unit: str = "") -> str:
    """Horizontal bars with their names and values; unit: "%" shows shares of the sum besides."""
    if not values:
        return '<p class="dim">none</p>'
    top, total, height = max(values.values()) or 1, sum(values.values()) or 1, 18
    rows = []
    for i, (name, value) in enumerate(values.items()):
        y = i * height
        shown = f"{value:,.0f}" + (f" · {value / total:.1%}" if unit == "%" else "")
        rows.append(
            f'<text x="132" y="{y + 13}" text-anchor="end">{safe(_short(name))}</text>'
            f'<rect x="140" y="{y + 3}" width="{max(200 * value / top, 0.5):.1f}" height="{height - 6}"/>'
            f'<text x="{146 + 200 * value / top:.1f}" y="{y + 13}">{shown}</text>'
        )
    return f'<svg viewBox="0 0 440 {len(values) * height + 4}" role="img">{"".join(rows)}</svg>'


def histogram(edges: Sequence[int], counts: Sequence[int], *, unit: str) -> str:
    """Counts between edges; under the axis the edges, on the left the highest count."""
    width, height, left, foot = 440, 150, 46, 32
    top, step = max(counts) or 1, (width - left - 6) / len(counts)
    parts = [f'<line x1="{left}" y1="{height - foot}" x2="{width}" y2="{height - foot}"/>']
    for i, count in enumerate(counts):
        tall = (height - foot - 14) * count / top
        said = f"{edges[i]:,} to {edges[i + 1] - 1:,} {unit}: {count:,}"
        parts.append(
            f'<rect x="{left + i * step + 0.5:.1f}" y="{height - foot - tall:.1f}" width="{max(step - 1, 1):.1f}" '
            f'height="{tall:.1f}"><title>{safe(said)}</title></rect>'
        )
    marks = sorted({0, len(counts) // 3, 2 * len(counts) // 3, len(counts)})
    for i in marks:
        anchor = "end" if i == len(counts) else "middle" if i else "start"
        edge = edges[i] - (i == len(counts))
        parts.append(f'<text x="{left + i * step:.1f}" y="{height - foot + 14}" text-anchor="{anchor}">{edge:,}</text>')
    parts.append(f'<text x="{left - 6}" y="14" text-anchor="end">{top:,}</text>')
    parts.append(f'<text x="{(left + width) / 2:.0f}" y="{height - 3}" text-anchor="middle">{safe(unit)}</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def safe(content: str) -> str:
    """Text from anywhere as HTML that shows it."""
    return escape(visible(content))


def visible(content: str) -> str:
    """Control characters and halves of surrogate pairs as what they are called, for a page must not hold them."""
    return "".join(
        each if each in "\n\t" or not (ord(each) < 32 or 0x7F <= ord(each) < 0xA0 or 0xD800 <= ord(each) < 0xE000)
        else f"\\x{ord(each):02x}"
        for each in content
    )  # fmt: skip


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    if _is_number(value):
        shown = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
        return f'<td class="right">{shown}</td>'
    return f"<td>{safe(str(value))}</td>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
