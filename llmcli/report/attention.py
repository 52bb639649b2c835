"""What a translation looked at, as a page that fetches nothing and as a picture: one map a text.

Rows are the pieces of the target, columns those of the source, the last one its end. Weights of a row add up to 1.
Shapes: L layers, H heads of each, T target pieces, S source pieces.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcli import files
from llmcli.report.page import page, safe, section

Weights = Sequence[Sequence[float]]  # (T, S)
_CELL, _PIECE = 22, 13  # sizes in the page: of a cell, characters of a piece
_SMALL = 5, 72  # of a cell in a small map at least, and of all of it where that is more
_SHADES = 12
_LEAST = 0.5 / _SHADES  # of what is less no cell is drawn
_HAN = re.compile("[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
# where there are Chinese characters, matplotlib takes the first of these that is installed
_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei",
    "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS", "WenQuanYi Micro Hei", "Noto Sans SC", "Droid Sans Fallback",
)  # fmt: skip

_STYLE = """
svg.map { width: auto; max-width: 100%; } svg.map text { font-size: 12px; fill: var(--ink); }
svg.map rect { stroke: none; } svg .frame { fill: none; stroke: var(--line); }
svg.map g.row:hover .ground { fill: var(--panel); } svg.map .ground { fill: transparent; }
svg.map g.row:hover text { font-weight: 700; } svg.map g.row rect.cell:hover { stroke: var(--ink); stroke-width: 1.5; }
.maps { display: flex; flex-wrap: wrap; gap: 1rem; margin: .3rem 0 1rem; } .maps figure { margin: 0; }
.maps figcaption { color: var(--dim); font-size: .85rem; } .maps svg { width: auto; }
.maps path { fill: var(--bar); } summary { cursor: pointer; color: var(--dim); }
"""


@dataclass(frozen=True)
class Looked:
    """What a text looked at. source (S), target (T): their pieces; weights (L, H, T, S); mean (T, S): of all heads."""

    source: Sequence[str]
    target: Sequence[str]
    weights: Sequence[Sequence[Weights]]
    mean: Weights

    def layers(self) -> list[Weights]:
        """(L, T, S): the mean over the heads of each layer."""
        return [
            [[sum(column) / len(heads) for column in zip(*rows, strict=True)] for rows in zip(*heads, strict=True)]
            for heads in self.weights
        ]


def attention_page(found: Sequence[Looked], *, subtitle: str) -> str:
    """A map for each text, in which each cell says its weight; below it those of each layer and each head."""
    parts = []
    for number, looked in enumerate(found, start=1):
        layers = [_small(each, f"layer {layer}") for layer, each in enumerate(looked.layers(), start=1)]
        heads = [
            _small(each, f"layer {layer}, head {head}")
            for layer, of_layer in enumerate(looked.weights, start=1)
            for head, each in enumerate(of_layer, start=1)
        ]
        several = len(looked.weights) > 1, any(len(each) > 1 for each in looked.weights)
        parts.append(
            section(
                f"Text {number}",
                _map(looked),
                _folded("The mean over the heads of each layer", layers) if several[0] else "",
                _folded("Each head", heads) if several[1] else "",
                note="Rows: what was written. Columns: what it was made of. The mean over all heads and layers; "
                "point at a cell for its weight.",
            )
        )
    return page("Attention", subtitle, *parts, style=_STYLE)


def _map(looked: Looked) -> str:
    source, target = ([_short(piece) for piece in side] for side in (looked.source, looked.target))
    left, top = 8 + 8 * max(map(_width, target), default=0), 12 + 7 * max(map(_width, source), default=0)
    width, height = left + _CELL * len(source) + top, top + _CELL * len(target) + 6
    heads = [
        f'<text transform="translate({left + _CELL * (x + 0.6):.0f} {top - 6}) rotate(-55)">{safe(piece)}</text>'
        for x, piece in enumerate(source)
    ]
    rows = []
    for y, (piece, weights) in enumerate(zip(target, looked.mean, strict=True)):
        at = top + y * _CELL
        cells = "".join(
            f'<rect class="cell" x="{left + x * _CELL}" y="{at}" width="{_CELL}" height="{_CELL}" '
            f'fill-opacity="{min(1.0, weight):.2f}"><title>{safe(looked.target[y])} ← {safe(looked.source[x])}: '
            f"{weight:.3f}</title></rect>"
            for x, weight in enumerate(weights)
        )
        rows.append(
            f'<g class="row"><rect class="ground" x="0" y="{at}" width="{left + _CELL * len(source)}" '
            f'height="{_CELL}"/><text x="{left - 6}" y="{at + 15}" text-anchor="end">{safe(piece)}</text>{cells}</g>'
        )
    frame = f'<rect class="frame" x="{left}" y="{top}" width="{_CELL * len(source)}" height="{_CELL * len(target)}"/>'
    return (
        f'<div class="scroll"><svg class="map" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img">{"".join(heads)}{"".join(rows)}{frame}</svg></div>'
    )


def _small(weights: Weights, title: str) -> str:
    """A map without words: one path for each shade."""
    shades: list[list[str]] = [[] for _ in range(_SHADES + 1)]
    for y, row in enumerate(weights):
        for x, weight in enumerate(row):
            if weight >= _LEAST:
                shades[min(_SHADES, round(weight * _SHADES))].append(f"M{x} {y}h1v1h-1z")
    paths = "".join(
        f'<path fill-opacity="{shade / _SHADES:.2f}" d="{"".join(cells)}"/>'
        for shade, cells in enumerate(shades)
        if cells
    )
    height, width = len(weights), max(map(len, weights), default=0)
    size = max(_SMALL[0], _SMALL[1] // max(1, height, width))
    return (
        f'<figure><svg width="{size * width}" height="{size * height}" viewBox="0 0 {width} {height}" role="img">'
        f'{paths}<rect class="frame" width="{width}" height="{height}" stroke-width="0.2"/></svg>'
        f"<figcaption>{safe(title)}</figcaption></figure>"
    )


def _folded(title: str, maps: Sequence[str]) -> str:
    return f'<details open=""><summary>{safe(title)}</summary><div class="maps">{"".join(maps)}</div></details>'


def _short(piece: str) -> str:
    return piece if len(piece) <= _PIECE else piece[: _PIECE - 1] + "…"


def _width(piece: str) -> int:
    """In half columns: a Chinese character is as wide as two letters."""
    return sum(1 if each < "\u2e80" else 2 for each in piece)


def draw_attention(path: Path, found: Sequence[Looked]) -> bool:
    """Write the mean over all heads of each text, one below the other, as a PNG.

    False where there are Chinese characters and no font that matplotlib knows has them: nothing is written then.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import font_manager
    from matplotlib import pyplot as plt

    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
    if len(fonts) == 1 and any(_HAN.search(piece) for looked in found for piece in (*looked.source, *looked.target)):
        return False
    columns = max(len(looked.source) for looked in found)
    rows = [max(1, len(looked.target)) for looked in found]
    with mpl.rc_context({"font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")  # a box stands for it
        figure, grid = plt.subplots(
            len(found), 1, figsize=(2 + 0.32 * columns, 0.32 * sum(rows) + 1.3 * len(found)), dpi=130,
            layout="constrained", squeeze=False, height_ratios=rows,
        )  # fmt: skip
        for axes, looked in zip(grid[:, 0], found, strict=True):
            axes.imshow(list(map(list, looked.mean)) or [[0.0] * len(looked.source)], cmap="Blues", vmin=0, vmax=1)
            axes.set_xticks(range(len(looked.source)), map(_plain, looked.source), rotation=55, ha="left")
            axes.set_yticks(range(len(looked.target)), map(_plain, looked.target))
            axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
            axes.spines[:].set_visible(False)
        try:
            files.write_atomic(path, lambda file: figure.savefig(file, format="png"))
        finally:
            plt.close(figure)
    return True


def _plain(piece: str) -> str:
    """Without what matplotlib takes for mathematics."""
    return _short(piece).replace("$", r"\$")
