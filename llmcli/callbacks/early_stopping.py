"""Stop when validation no longer improves."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl

from llmcli import ui
from llmcli.callbacks.base import Callback, Order
from llmcli.errors import InputError


class EarlyStopping(Callback):
    """Ends the run after `patience` validations in a row that did not beat the best by more than `min_delta`.

    Prechelt 1998. It watches the task's own monitor (the validation loss of a language model). A value that is not
    finite beats nothing.
    """

    order = Order.STOP

    def __init__(self, *, patience: int, min_delta: float) -> None:
        if patience < 1:
            raise InputError(f"callbacks.early_stopping.patience must be at least 1, not {patience}")
        if min_delta < 0:
            raise InputError(f"callbacks.early_stopping.min_delta must not be negative, not {min_delta}")
        self._patience, self._min_delta = patience, min_delta
        self._best: float | None = None
        self._waited = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        value = float(trainer.callback_metrics.get(str(pl_module.monitor), math.nan))  # nan: made of nothing
        if math.isfinite(value) and (self._best is None or self._gain(value, pl_module) > self._min_delta):
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited >= self._patience and not trainer.should_stop:
            trainer.should_stop = True
            than = "" if self._best is None else f" than {self._best:.4f}"
            ui.note(f"stopping early: {self._waited} validations without a better {pl_module.monitor}{than}")

    def _gain(self, value: float, task: pl.LightningModule) -> float:
        assert self._best is not None
        return value - self._best if task.higher_is_better else self._best - value

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._waited = state_dict["best"], int(state_dict["waited"])
