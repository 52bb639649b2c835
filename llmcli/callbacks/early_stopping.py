"""Stop when validation no longer improves."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from llmcli import ui
from llmcli.errors import InputError


class EarlyStopping(pl.Callback):
    """Ends the run after `patience` validations in a row that did not beat the best by more than `min_delta`.

    Prechelt 1998. It watches the task's own monitor (the validation loss of a language model).
    """

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
        value = float(trainer.callback_metrics[str(pl_module.monitor)])
        gain = float("inf") if self._best is None else self._best - value
        if pl_module.higher_is_better:
            gain = -gain if self._best is not None else gain
        if gain > self._min_delta:
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited >= self._patience and not trainer.should_stop:
            trainer.should_stop = True
            ui.note(
                f"stopping early: {self._waited} validations without a better {pl_module.monitor} than {self._best:.4f}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._waited = state_dict["best"], int(state_dict["waited"])
