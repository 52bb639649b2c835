"""What a run came to: its best weights on the whole validation split, beside the floor of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmcli import checkpoint, files, runs, ui
from llmcli import config as configs
from llmcli.assembly import Parts
from llmcli.callbacks.history import History
from llmcli.evaluation import evaluate
from llmcli.floor import NAMES, floor_of
from llmcli.report.curves import draw
from llmcli.trust import packages_of


def conclude(parts: Parts, history: History, *, folder: Path) -> dict[str, Any]:
    """Write metrics.json, curves.png and the final status; returns the figures of metrics.json."""
    now = history.now
    read = parts.settings.val_batches or 0
    if now.best and read < len(parts.data.eval_loader("val", alone=True)):
        # validations read a part of the split; the figure that is reported reads all of it, with the best weights
        history.replace_best({**now.best, **_score_best(parts, folder)})  # what only validations measure stays
    floor = floor_of(parts.task.floor, parts.prepared, "val")
    figures: dict[str, Any] = {
        **{f"val_{name}": value for name, value in now.best.items()},
        **history.verdict(),
        "perplexity": now.best.get("perplexity"),
        "best_step": now.best_step,
        "steps": now.step,
        "tokens": now.tokens,
        "seconds": round(history.elapsed(), 2),
        "tokens_per_second": now.tokens_per_second,
        "floor_loss": floor.get("loss"),
        **{f"floor_{name}": value for name, value in floor.items()},
        "run": str(folder),
    }
    files.write_json(folder / "metrics.json", figures)
    draw(
        folder,
        monitor=history.monitor,
        higher_is_better=history.higher_is_better,
        floor=floor,
        floor_name=NAMES.get(parts.task.floor, ""),
        loss_unit=parts.task.loss_unit,
    )
    history.write_status("completed")
    return figures


def _score_best(parts: Parts, folder: Path) -> dict[str, float]:
    # what the user wrote for this run is his own; of a resumed run it is what was trusted
    own = packages_of(configs.resolved(parts.config)) if parts.trusted is None else ()
    task = checkpoint.load(runs.resolve(str(folder), "use"), packages=own).task
    prepared = parts.prepared
    with ui.Meter() as meter:
        return evaluate(
            task,
            parts.data.eval_loader("val", alone=True),  # the other processes have left
            device=parts.task.device,
            text={unit: float(prepared.count(unit, "val")) for unit in ("bytes", "characters")},
            on_batch=lambda n: meter("scoring the whole validation split", n, prepared.count("tokens", "val")),
        )
