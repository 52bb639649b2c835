"""curves.png: the losses over steps, and the figure that decides what is best, from metrics.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcli import files
from llmcli.callbacks.history import read_rows

Points = list[tuple[int, float]]  # (optimizer step, figure)
_TRAINING, _VALIDATION, _FLOOR = "#9db4d6", "#1f4e9c", "#b5651d"


def draw(
    folder: Path,
    *,
    monitor: str,
    higher_is_better: bool,
    floor: Mapping[str, float],
    floor_name: str,
    loss_unit: str,
) -> Path:
    """Draw the run's losses, and of the floor's figures those that are drawn of the run; returns the PNG's path.

    monitor: the figure of which the best validation is marked, without `val_`; one that is no loss gets a panel.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = read_rows(folder / "metrics.csv")
    train, val, monitored = (_points(rows, name) for name in ("loss", "val_loss", f"val_{monitor}"))
    panels = 1 if monitor == "loss" else 2
    figure, grid = plt.subplots(
        panels, 1, figsize=(7.5, 1.6 + 2.6 * panels), dpi=130, layout="constrained", sharex=True, squeeze=False
    )
    axes, last = grid[0, 0], grid[-1, 0]
    if train:
        axes.plot(*zip(*train, strict=True), color=_TRAINING, linewidth=1.0, label="training")
    if val:
        _validations(axes, val, "validation")
    for name, panel in {"loss": axes, monitor: last}.items():
        if name in floor:
            label = f"{floor_name} {floor[name]:.3f}"
            panel.axhline(floor[name], color=_FLOOR, linestyle="--", linewidth=1.2, label=label)
            panel.legend(frameon=False)
    if train or val:
        axes.legend(frameon=False)
        axes.set_ylim(*_limits([value for _, value in [*train, *val]], floor.get("loss")))
    if last is not axes and monitored:
        _validations(last, monitored, monitor)
        last.set_ylabel(monitor.replace("_", " "))
    if monitored:
        step, best = (max if higher_is_better else min)(monitored, key=lambda point: point[1])
        last.annotate(
            f"{best:.3f}", (step, best), textcoords="offset points", xytext=(0, 8), ha="center", color=_VALIDATION
        )
    axes.set_ylabel(f"loss ({loss_unit})")
    axes.set_title(str(folder), fontsize=9, loc="left")
    last.set_xlabel("optimizer step")
    for each in grid[:, 0]:
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    path = folder / "curves.png"
    files.write_atomic(path, lambda file: figure.savefig(file, format="png"))
    plt.close(figure)
    return path


def _points(rows: list[dict[str, str]], name: str) -> Points:
    points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    return [point for point in points if math.isfinite(point[1])]


def _validations(axes: Any, points: Points, label: str) -> None:
    axes.plot(*zip(*points, strict=True), color=_VALIDATION, marker="o", markersize=3.5, linewidth=1.6, label=label)


def _limits(losses: list[float], floor: float | None) -> tuple[float, float]:
    """Of the y axis: without the first steps, which would flatten the rest."""
    every = sorted(losses)
    floors = [] if floor is None else [floor]
    bottom, top = min([every[0], *floors]), max([every[min(len(every) - 1, int(0.98 * len(every)))], *floors])
    margin = 0.06 * max(top - bottom, 0.1)
    return bottom - margin, top + 2 * margin
