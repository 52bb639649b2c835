"""The progress bar on a terminal; in a log file one plain line every so many seconds."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from llmcli import ui
from llmcli.callbacks.base import Callback, Order
from llmcli.callbacks.history import History, Now
from llmcli.trainer import Budget


class _Figures(ProgressColumn):
    """Loss, validation and speed, as the last row of the history has them."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("figures", ""))


class ProgressBar(Callback):
    """Shows step, loss, the last validation, tokens/s and the time left; refreshed a few times a second."""

    order = Order.SHOW

    def __init__(self, *, history: History, budget: Budget, line_every: float = 15.0) -> None:
        self._history, self._budget, self._line_every = history, budget, line_every
        self._bar: Progress | None = None
        self._task: Any = None
        self._last_line = time.monotonic()
        history.listeners.append(self._update)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (trainer.is_global_zero and ui.is_terminal()):
            return
        self._bar = Progress(
            TextColumn(" epoch {task.fields[epoch]}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=5)),
            TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
            _Figures(table_column=Column(no_wrap=True)),
            console=ui.err,
            refresh_per_second=4,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("train", total=1.0, epoch=1, count="", figures="")
        self._bar.start()
        self._update(self._history.now)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=self._fraction(trainer.global_step),
                count=self._count(trainer.global_step),
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None:
            self._bar.update(self._task, figures="validating …")

    def _fraction(self, step: int) -> float:
        return self._budget.progress(step, self._history.elapsed())

    def _count(self, step: int) -> str:
        if self._budget.steps:
            return f"{step:,}/{self._budget.steps:,}"
        return f"{step:,} steps"

    def _figures(self, now: Now) -> str:
        parts = []
        if now.loss is not None:
            parts.append(f"loss {now.loss:.3f}")
        monitor = self._history.monitor
        if monitor in now.val:
            name = "val" if monitor == "loss" else f"val {monitor.replace('_', ' ')}"
            best = ", best" if now.best_step == now.step else ""
            parts.append(f"{name} {now.val[monitor]:.3f}{best}")
        if now.tokens_per_second:
            parts.append(f"{now.tokens_per_second:,.0f} tok/s")
        left = self._history.seconds_left()
        if left is not None and now.step:
            parts.append(f"{ui.clock(left)} left")
        return "  ".join(parts)

    def _update(self, now: Now) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=self._fraction(now.step),
                epoch=now.epoch + 1,
                count=self._count(now.step),
                figures=self._figures(now),
            )
        elif time.monotonic() - self._last_line >= self._line_every:
            self._last_line = time.monotonic()
            count = self._count(now.step).removesuffix(" steps")
            ui.note(f"epoch {now.epoch + 1}  step {count}  {self._figures(now)}")

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()
