"""A sample of the model's text after each validation."""

from __future__ import annotations

import pytorch_lightning as pl

from llmcli import ui
from llmcli.decoding.base import GeneratingModel, Strategy
from llmcli.decoding.generate import generate
from llmcli.errors import InputError
from llmcli.tokenizers.base import Tokenizer


class Samples(pl.Callback):
    """Continues `prompt` (None: how a validation document begins) by `max_new_tokens` tokens, on one line.

    Draws from its own generator, so training is the same with and without it.
    """

    def __init__(self, *, prompt: str | None, max_new_tokens: int, seed: int) -> None:
        if max_new_tokens < 1:
            raise InputError(f"callbacks.samples.max_new_tokens must be at least 1, not {max_new_tokens}")
        self.prompt = prompt
        self._max_new_tokens = max_new_tokens
        self._seed = seed

    def attach(self, *, tokenizer: Tokenizer, strategy: Strategy, opening: str) -> None:
        """opening: the prompt where the config gives none."""
        self._tokenizer, self._strategy = tokenizer, strategy
        self.prompt = self.prompt if self.prompt is not None else opening

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or not trainer.is_global_zero or not isinstance(self.prompt, str):
            return
        model: GeneratingModel = pl_module  # type: ignore[assignment]  # the train command checks that it generates
        was_training = pl_module.training
        pl_module.eval()
        text = generate(
            model,
            self._tokenizer,
            [self.prompt],
            strategy=self._strategy,
            max_new_tokens=self._max_new_tokens,
            num_samples=1,
            stop=(),
            seed=self._seed,
            unknown="replace",
        )[0].text
        pl_module.train(was_training)
        ui.sample(trainer.global_step, self.prompt, text)
