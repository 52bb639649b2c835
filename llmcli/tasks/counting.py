"""N-gram models, which are counted, not trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.decoding.base import StepOutput
from llmcli.errors import InputError
from llmcli.losses import IGNORED
from llmcli.metrics.base import Metric
from llmcli.metrics.text import BitsPerByte, BitsPerCharacter, Loss, Perplexity
from llmcli.models.base import State
from llmcli.models.ngram import NGram
from llmcli.tasks.base import Batch, Stage, StepResult
from llmcli.tasks.single_pass import SinglePass


class Counting(SinglePass):
    """Fits an n-gram model to the train split; evaluated and generated with like any other language model.

    Its conditional distributions see the batch alone, so a token at the beginning of a window has less context.
    """

    takes = ("Text",)
    kinds = ("counts",)
    floor = "ngrams"

    def __init__(
        self,
        *,
        model: NGram,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        if not causal:
            raise InputError("task=counting predicts the next token and needs task.causal=true")
        self.model = model
        self.vocab_size = model.vocab_size
        self.max_seq_len = None

    def check(self, data: Any) -> None:
        if data.apart:
            raise InputError(
                "batch.across_documents=false is for models that are trained; counts take the text as it runs",
                "leave it out",
            )

    def fit(self, data: Any) -> int:
        tokens = data.prepared.split("train")
        self.model.fit(tokens.read(0, len(tokens)))
        return len(tokens)

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        loss = 0.0
        for ids, labels in zip(batch["ids"].cpu().numpy(), batch["labels"].cpu().numpy(), strict=True):
            scored = labels != IGNORED  # padding is on the right; with a stride the first labels only give context
            tokens = np.append(ids, np.where(scored, labels, ids[-1])[-1])  # the row and the label of its last id
            loss -= float(self.model.log_prob(tokens)[1:][scored].sum())
        return StepResult(loss=torch.tensor(loss, dtype=torch.float64), n=batch["n_tokens"])

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Perplexity(), BitsPerByte(), BitsPerCharacter()

    def init_state(self, batch_size: int, capacity: int) -> State:
        return self.model.init_state(batch_size, capacity)

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None, *, last_only: bool = False) -> StepOutput:
        """ids (B, T) -> logits (B, T, V), or (B, 1, V) at each row's last real token: log-probabilities."""
        logits, state = self.model.step(ids, state, lengths)
        if last_only:
            last = torch.full((ids.size(0),), ids.size(1) - 1) if lengths is None else lengths - 1
            logits = logits[torch.arange(ids.size(0)), last].unsqueeze(1)
        return StepOutput(logits=logits, hidden=logits, attention=None, state=state)
