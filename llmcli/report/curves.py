"""curves.png: training and validation loss over steps, from metrics.csv."""

from __future__ import annotations

from pathlib import Path

from llmcli import files
from llmcli.callbacks.history import read_rows


def draw(folder: Path, *, floor: float | None) -> Path:
    """Draw the run's losses (nats per token), its best validation and the n-gram floor; returns the PNG's path."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = read_rows(folder / "metrics.csv")
    train = [(int(r["step"]), float(r["loss"])) for r in rows if r.get("loss")]
    val = [(int(r["step"]), float(r["val_loss"])) for r in rows if r.get("val_loss")]
    figure, axes = plt.subplots(figsize=(7.5, 4.2), dpi=130, layout="constrained")
    if train:
        axes.plot(*zip(*train, strict=True), color="#9db4d6", linewidth=1.0, label="training")
    if val:
        axes.plot(
            *zip(*val, strict=True),
            color="#1f4e9c",
            marker="o",
            markersize=3.5,
            linewidth=1.6,
            label="validation",
        )
        step, best = min(val, key=lambda point: point[1])
        axes.annotate(
            f"{best:.3f}",
            (step, best),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            color="#1f4e9c",
        )
    if floor is not None:
        axes.axhline(floor, color="#b5651d", linestyle="--", linewidth=1.2, label=f"5-gram {floor:.3f}")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(str(folder), fontsize=9, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if train or val:
        axes.legend(frameon=False)
        every = sorted(v for _, v in [*train, *val])
        low, high = (
            every[0],
            every[min(len(every) - 1, int(0.98 * len(every)))],
        )  # the first steps would flatten the rest
        floors = [floor] if floor is not None else []
        bottom, top = min([low, *floors]), max([high, *floors])
        margin = 0.06 * max(top - bottom, 0.1)
        axes.set_ylim(bottom - margin, top + 2 * margin)
    path = folder / "curves.png"
    files.write_atomic(path, lambda file: figure.savefig(file, format="png"))
    plt.close(figure)
    return path
