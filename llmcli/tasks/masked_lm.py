"""Masked language modelling (Devlin et al. 2019): tokens are hidden, and predicted from what stands on both sides.

Shapes: B batch, T time, D model width, V vocabulary, N hidden tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.masking import Masking, Unit
from llmcli.heads import MaskedHead
from llmcli.metrics.base import Metric
from llmcli.metrics.text import Accuracy, Loss, Perplexity
from llmcli.models.base import Backbone, check_both_ways
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.filling import fill, gap
from llmcli.tokenizers.base import Tokenizer


class MaskedLM(Task):
    """Learns P(hidden token | the others) from windows of running text, with any encoder that sees the words around.

    rate, random, kept, unit and marks say which tokens are hidden and how (`data.masking.Masking`). Only their hidden
    states go through the head. There is no prediction of the next sentence, which does not help (Liu et al. 2019).
    """

    takes = ("Text",)
    kinds = ("attention", "recurrent", "convolution")
    needs_causal = False

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        rate: float,
        random: float,
        kept: float,
        unit: Unit,
        marks: bool,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        check_both_ways(model, causal=causal, task="masked_lm")
        self.model = model
        self.head = MaskedHead(backbone=model)
        self.rate, self.random, self.kept, self.unit, self.marks = rate, random, kept, unit, marks
        self.max_seq_len = model.max_seq_len

    @property
    def width(self) -> int:
        return self.model.d_model

    def encoder(self, tokenizer: Tokenizer) -> Masking:
        return Masking(tokenizer, rate=self.rate, random=self.random, kept=self.kept, unit=self.unit, marks=self.marks)

    # -- loss --------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        hidden = self.model(batch["ids"], mask=batch.get("mask"))  # (B, T, D)
        hidden, targets = hidden.flatten(0, 1)[batch["places"]], batch["targets"]  # (N, D), (N,)
        n, tokens = batch["n_tokens"], batch["n_ids"]
        if stage == "train":
            return StepResult(loss=self.head(hidden, targets), n=n, tokens=tokens)
        loss, correct = self.head.loss_and_correct(hidden, targets)
        return StepResult(loss=loss, n=n, tokens=tokens, sums={"correct": correct})

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Perplexity(), Accuracy()

    # -- prediction --------------------------------------------------------------------------------------------

    def example(self, prompt: str) -> str:
        """Something to ask `predict`."""
        return gap(prompt)

    @torch.inference_mode()
    def predict(self, texts: Sequence[str], tokenizer: Tokenizer, *, top: int) -> list[dict[str, Any]]:
        """Each text with its <mask>s filled, all at once (`tasks.filling.fill`)."""

        def logits(ids: Tensor, mask: Tensor, masked: Tensor) -> Tensor:
            return self.head.logits(self.model(ids, mask=mask)[masked])

        return fill(
            texts, tokenizer, top=top, marks=self.marks, limit=self.max_seq_len, device=self.device, logits=logits
        )
