"""Gradual unfreezing: the layers begin to learn one after another, the last one first (Howard & Ruder 2018)."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import nn

from llmcli.callbacks.base import Callback
from llmcli.optim.layers import learning_layers
from llmcli.tasks.base import Task


class Unfreezing(Callback):
    """Which layers learn follows from where training is, so that a resumed run goes on with the same ones.

    every: epochs from one layer to the next; below 1 the fraction of the budget after which all layers learn. The heads
    learn from the first step; frozen parameters stay as they are.
    """

    def __init__(self, *, every: float) -> None:
        self._every = every
        self._layers: list[list[nn.Parameter]] = []
        self._learning = 0  # how many of them learn

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._layers, self._learning = learning_layers(pl_module), 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        learning = self.learning(trainer.current_epoch, pl_module.progress(trainer.global_step))
        if learning == self._learning:
            return
        self._learning = learning
        for place, layer in enumerate(self._layers):
            for parameter in layer:
                parameter.requires_grad_(place < learning)

    def learning(self, epoch: int, progress: float) -> int:
        """How many layers learn in an epoch (from 0) and at this fraction of the budget."""
        beyond = epoch // self._every if self._every >= 1 else progress / self._every * (len(self._layers) - 1)
        return min(len(self._layers), 1 + int(beyond))
