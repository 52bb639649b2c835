"""What a run has done so far: metrics.csv, status.json, the best figure, the clock. It prints nothing."""

from __future__ import annotations

import csv
import io
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from llmcli import files
from llmcli.callbacks.base import Callback, Order
from llmcli.tasks.base import Task
from llmcli.trainer import Budget

COLUMNS = ("step", "epoch", "tokens", "seconds", "loss", "lr", "tokens_per_second")


@dataclass(slots=True)
class Now:
    """The state of a run, as bars and tables show it."""

    step: int = 0
    epoch: int = 0
    tokens: int = 0  # of all processes together
    seconds: float = 0.0
    loss: float | None = None
    lr: float | None = None
    tokens_per_second: float | None = None
    val: dict[str, float] = field(default_factory=dict)  # the last validation, without "val_"
    best: dict[str, float] = field(default_factory=dict)  # the best validation
    best_step: int | None = None


class History(Callback):
    """Reads the task's losses every `log_every` steps (the only regular read of device values) and writes them down.

    budget decides the remaining time and, through `Task.progress`, the schedule. The clock counts the seconds of
    fitting, validations included, over all sessions of a resumed run.
    """

    order = Order.MEASURE

    def __init__(
        self,
        *,
        folder: Path,
        budget: Budget,
        log_every: int,
        monitor: str,
        higher_is_better: bool,
        about: dict[str, Any],
    ) -> None:
        self.now = Now()
        self.listeners: list[Callable[[Now], None]] = []
        self._folder = folder
        self._budget = budget
        self._log_every = log_every
        self.monitor = monitor.removeprefix("val_")
        self.higher_is_better = higher_is_better
        self._about = about
        self._earlier = 0.0  # seconds of earlier sessions
        self._started = time.monotonic()
        self._mark = (0.0, 0)  # seconds and tokens at the last row
        self._paused = 0.0  # seconds of validation since the last row
        self._validation_began = 0.0
        self._logged_step = -1
        self._status_written = 0.0
        self._fields: list[str] = list(COLUMNS)

    # -- clock -------------------------------------------------------------------------------------------------

    def elapsed(self) -> float:
        return self._earlier + time.monotonic() - self._started

    def seconds_left(self) -> float | None:
        """From the mean speed so far, or the clock's limit where that is nearer."""
        left = []
        if self._budget.seconds is not None:
            left.append(self._budget.seconds - self.elapsed())
        session = self.now.step - self._first_step
        if self._budget.steps is not None and session > 0:
            per_step = (self.elapsed() - self._earlier) / session
            left.append(per_step * (self._budget.steps - self.now.step))
        return max(0.0, min(left)) if left else None

    # -- hooks -------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()
        self._first_step = self._logged_step = self.now.step = trainer.global_step
        self.now.tokens = _task(pl_module).tokens_seen * trainer.world_size
        self._mark = (self.elapsed(), self.now.tokens)
        self._keep_rows_up_to(trainer.global_step)
        self.write_status("running")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._logged_step or step % self._log_every:
            return
        self.log_row(trainer, _task(pl_module))

    def log_row(self, trainer: pl.Trainer, task: Task) -> None:
        """Read the losses since the last row and write them down."""
        loss = task.take_losses()
        if loss is None:
            return
        seconds, tokens = self.elapsed(), task.tokens_seen * trainer.world_size
        spent = max(1e-9, seconds - self._mark[0] - self._paused)
        now = self.now
        now.step, now.epoch, now.tokens, now.seconds, now.loss = (
            trainer.global_step, trainer.current_epoch, tokens, seconds, loss,
        )  # fmt: skip
        now.tokens_per_second = (tokens - self._mark[1]) / spent
        now.lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._mark, self._paused, self._logged_step = (seconds, tokens), 0.0, now.step
        self._row({name: getattr(now, name) for name in COLUMNS})
        if seconds - self._status_written > 2.0:
            self.write_status("running")
        for listener in self.listeners:
            listener(now)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.log_row(trainer, _task(pl_module))
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = self.now
        now.step = trainer.global_step
        now.val = {
            name.removeprefix("val_"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val_")
        }
        if self.improved():
            now.best, now.best_step = dict(now.val), now.step
        self._row(
            {"step": now.step, "epoch": trainer.current_epoch,
             "tokens": _task(pl_module).tokens_seen * trainer.world_size, "seconds": self.elapsed(),
             **{f"val_{name}": value for name, value in now.val.items()}}
        )  # fmt: skip
        self.write_status("running")
        self._paused += time.monotonic() - self._validation_began
        for listener in self.listeners:
            listener(now)

    def improved(self) -> bool:
        """Whether the last validation is the best of the run so far; a figure that is not finite never is."""
        value, best = self.now.val.get(self.monitor), self.now.best.get(self.monitor)
        if value is None or not math.isfinite(value):
            return False
        return best is None or (value > best if self.higher_is_better else value < best)

    def replace_best(self, figures: dict[str, float]) -> None:
        """Other figures of the best weights: over the whole split, where validations read a part."""
        self.now.best = dict(figures)

    def verdict(self) -> dict[str, Any]:
        """By which figure the run is judged, and its best value: what ranks it among others."""
        return {
            "monitor": f"val_{self.monitor}",
            "higher_is_better": self.higher_is_better,
            "best": self.now.best.get(self.monitor),
        }

    # -- files -------------------------------------------------------------------------------------------------

    @rank_zero_only
    def _row(self, row: dict[str, Any]) -> None:
        path = self._folder / "metrics.csv"
        new = [name for name in row if name not in self._fields]
        if new or not path.exists():
            self._fields += new
            self._rewrite(read_rows(path))
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._fields).writerow({k: _short(v) for k, v in row.items()})

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._fields)
        writer.writeheader()
        writer.writerows(rows)
        files.write_atomic(self._folder / "metrics.csv", text.getvalue().encode())

    @rank_zero_only
    def _keep_rows_up_to(self, step: int) -> None:
        """A resumed run repeats the steps after its checkpoint: their old rows go."""
        rows = read_rows(self._folder / "metrics.csv")
        if rows:
            self._fields = list(rows[0])
            self._rewrite([row for row in rows if int(row["step"]) <= step])

    @rank_zero_only
    def write_status(self, state: str) -> None:
        now = self.now
        self._status_written = now.seconds
        files.write_json(
            self._folder / "status.json",
            {
                "state": state,
                "step": now.step,
                "total_steps": self._budget.steps,
                "seconds": round(self.elapsed(), 1),
                "seconds_left": self.seconds_left() if state == "running" else None,
                "loss": now.loss,
                **self.verdict(),
                "last": now.val.get(self.monitor),
                "tokens_per_second": now.tokens_per_second,
                "pid": os.getpid(),
                "host": platform.node(),
                **self._about,
            },
            sync=False,  # it is written again soon, and training should not wait for the disk
        )

    # -- checkpoints -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.elapsed(),
            "val": dict(self.now.val),
            "best": dict(self.now.best),
            "best_step": self.now.best_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = float(state_dict["seconds"])
        self.now.val, self.now.best = dict(state_dict["val"]), dict(state_dict["best"])
        self.now.best_step = state_dict["best_step"]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("step")]


def _short(value: Any) -> Any:
    return f"{value:.7g}" if isinstance(value, float) else value


def _task(module: pl.LightningModule) -> Task:
    assert isinstance(module, Task)
    return module
