"""Checkpoints: the best at each validation, the last every few minutes, the newest `keep` of those."""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from llmcli import ui
from llmcli.callbacks.base import Callback, Context, Order
from llmcli.errors import InputError
from llmcli.tasks.base import Task
from llmcli.trainer import seconds


class Checkpoints(Callback):
    """Writes checkpoints/best.ckpt, checkpoints/last.ckpt and the newest `keep` checkpoints/step-N.ckpt.

    Only at optimizer-step boundaries after which no validation is due, or after that validation: a save in
    mid-accumulation loses gradients, and Lightning skips a due validation on resume.
    """

    order = Order.SAVE

    def __init__(self, *, every: str | float, keep: int) -> None:
        self._every = seconds(every, "callbacks.checkpoints.every")
        if keep < 1:
            raise InputError(f"callbacks.checkpoints.keep must be at least 1, not {keep}")
        self._keep = keep
        self._saved = time.monotonic()
        self._step = -1

    def attach(self, context: Context) -> None:
        self._folder, self._history = context.folder / "checkpoints", context.history

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved, self._step = time.monotonic(), trainer.global_step
        assert isinstance(pl_module, Task)
        there = [self._folder / name for name in ("last.ckpt", "best.ckpt")]  # of a run that is resumed
        pl_module.saved = next((path for path in there if path.exists()), None)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if not stepped or validation_due(trainer):
            return
        due = time.monotonic() - self._saved >= self._every
        if trainer.world_size > 1:
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        figure = self._history.now.val.get(self._history.monitor)
        if figure is not None and not math.isfinite(figure):
            ui.note(f"step {trainer.global_step:,}: val_{self._history.monitor} is {figure}, which cannot be the best")
        if self._history.now.best_step == trainer.global_step:
            self._save(trainer, self._folder / "best.ckpt")
        if trainer.should_stop:
            self.save_last(trainer)

    def save_last(self, trainer: pl.Trainer) -> Path:
        """Write step-N.ckpt, point last.ckpt at it, drop the oldest beyond `keep`."""
        path = self._folder / f"step-{trainer.global_step:08d}.ckpt"
        self._save(trainer, path)
        last = self._folder / "last.ckpt"
        if trainer.is_global_zero:
            _link(path, last)
            for old in sorted(self._folder.glob("step-*.ckpt"))[: -self._keep]:
                old.unlink(missing_ok=True)
        self._saved = time.monotonic()
        return last

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        trainer.save_checkpoint(path, weights_only=False)
        module = trainer.lightning_module
        assert isinstance(module, Task)
        module.saved = path


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` in one step; a copy where the file system has no hard links."""
    temporary = target.with_name(f".{target.name}.link")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def validation_due(trainer: pl.Trainer) -> bool:
    """Whether Lightning validates after the batch in hand."""
    done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    return bool(trainer.should_stop or done % int(trainer.val_check_batch or 1) == 0)
