"""Exponential moving average of the weights (Polyak & Juditsky 1992): what is validated, sampled and saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from llmcli.errors import InputError


class EMA(WeightAveraging):
    """average <- decay * average + (1 - decay) * weights after every optimizer step beyond `start_step`.

    Until then the average is a copy of the weights, so that what is validated and saved is what has been trained.
    """

    def __init__(self, *, decay: float, start_step: int) -> None:
        if not 0.0 <= decay < 1.0:
            raise InputError(f"callbacks.ema.decay must be in [0, 1), not {decay}")
        if start_step < 0:
            raise InputError(f"callbacks.ema.start_step must be at least 0, not {start_step}")
        super().__init__(multi_avg_fn=self._average)
        self._decay, self._start_step = decay, start_step
        self._copying = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._copying = trainer.global_step <= self._start_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @torch.no_grad()
    def _average(self, averages: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int) -> None:
        if averages[0].is_floating_point():  # all of one dtype
            # the average of bfloat16 weights is in float32, in which small steps still add up
            full = [each.to(averages[0].dtype) for each in weights]
            torch._foreach_lerp_(list(averages), full, 1.0 if self._copying else 1.0 - self._decay)
        else:
            torch._foreach_copy_(list(averages), list(weights))  # buffers that count have no mean
