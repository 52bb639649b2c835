"""A sample of the model's text after each validation."""

from __future__ import annotations

from typing import cast

import pytorch_lightning as pl

from llmcli import ui
from llmcli.callbacks.base import Callback, Context, Order
from llmcli.decoding.base import GeneratingModel, SourceModel
from llmcli.decoding.generate import generate
from llmcli.errors import InputError
from llmcli.tasks.base import Task


class Samples(Callback):
    """Continues `prompt` (None: how a validation document begins) by `max_new_tokens` tokens, on one line.

    Drawn with the weights that are validated, also where those are an average. Draws from its own generator, so
    training is the same with and without it. A task that generates nothing has no samples.
    """

    order = Order.SHOW

    def __init__(self, *, prompt: str | None, max_new_tokens: int, seed: int) -> None:
        if max_new_tokens < 1:
            raise InputError(f"callbacks.samples.max_new_tokens must be at least 1, not {max_new_tokens}")
        self.prompt = prompt
        self._max_new_tokens = max_new_tokens
        self._seed = seed
        self._text: str | None = None  # drawn and not yet shown

    def attach(self, context: Context) -> None:
        self._tokenizer, self._strategy = context.tokenizer, context.strategy
        if self.prompt is None:
            self.prompt = context.prompt
        context.prompt = self.prompt

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, Task) or not pl_module.generates or not isinstance(self.prompt, str):
            return
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        try:
            self._text = generate(
                cast("GeneratingModel | SourceModel", pl_module),
                self._tokenizer,
                [pl_module.as_prompt(self.prompt, self._tokenizer)],
                strategy=self._strategy,
                max_new_tokens=self._max_new_tokens,
                num_samples=1,
                stop=(),
                seed=self._seed,
                unknown="replace",
            )[0].text
        except InputError as err:  # a prompt that the model cannot read is no reason to stop learning
            ui.note(f"no samples: {err}")
            self.prompt = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._text is not None and self.prompt is not None:
            ui.sample(trainer.global_step, self.prompt, self._text)  # below the figures of the validation
            self._text = None
