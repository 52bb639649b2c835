"""Exponential moving average of the weights (Polyak & Juditsky 1992): what is validated, saved and generated with."""

from __future__ import annotations

from pytorch_lightning.callbacks import EMAWeightAveraging

from llmcli.errors import InputError


class EMA(EMAWeightAveraging):
    """average <- decay * average + (1 - decay) * weights after every optimizer step."""

    def __init__(self, *, decay: float, start_step: int) -> None:
        if not 0.0 <= decay < 1.0:
            raise InputError(f"callbacks.ema.decay must be in [0, 1), not {decay}")
        super().__init__(decay=decay, update_starting_at_step=start_step)
