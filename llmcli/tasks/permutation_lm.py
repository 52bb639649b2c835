"""Permutation language modelling (Yang et al. 2019, XLNet): tokens are predicted one after another in a random order,
each from the known ones and those predicted before it, wherever they stand.

Shapes: B batch, T time, D model width, V vocabulary, M targets of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.permutation import Permutation
from llmcli.heads import LanguageModelHead
from llmcli.metrics.base import Metric
from llmcli.metrics.text import Accuracy, Loss, Perplexity
from llmcli.models.base import Backbone, check_both_ways
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.filling import fill, gap
from llmcli.tokenizers.base import Tokenizer


class TwoStreams(Protocol):
    """What the task needs of a model beside a backbone."""

    def two_streams(self, ids: Tensor, order: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids and order (B, T), places of targets (B, M) -> hidden states (B, M, D) that know all tokens of lower
        order than their own, 0 being known to all, and their own place, but not the token there.
        """


class PermutationLM(Task):
    """Learns P(token | tokens before it in a random order) from windows of running text.

    k, longest_span and marks say which tokens are predicted (`data.permutation.Permutation`): the last 1 / k of the
    order, since with little to go by its beginning teaches little.
    """

    takes = ("Text",)
    kinds = ("attention",)
    calls = ("two_streams",)
    needs_causal = False

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        k: int,
        longest_span: int,
        marks: bool,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        check_both_ways(model, causal=causal, task="permutation_lm")
        self.model = model
        self.head = LanguageModelHead.for_backbone(model, label_smoothing=0.0)
        self.k, self.longest_span, self.marks = k, longest_span, marks
        self.max_seq_len = model.max_seq_len

    @property
    def width(self) -> int:
        return self.model.d_model

    def encoder(self, tokenizer: Tokenizer) -> Permutation:
        return Permutation(tokenizer, k=self.k, longest_span=self.longest_span, marks=self.marks)

    def hidden(self, ids: Tensor, order: Tensor, places: Tensor, mask: Tensor | None) -> Tensor:
        """The query stream at places (B, M) -> (B, M, D)."""
        return cast(TwoStreams, self.model).two_streams(ids, order, places, mask)

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        hidden = self.hidden(batch["ids"], batch["order"], batch["places"], batch.get("mask"))
        n, tokens = batch["n_tokens"], batch["n_ids"]
        if stage == "train":
            return StepResult(loss=self.head(hidden, batch["targets"]), n=n, tokens=tokens)
        loss, correct = self.head.loss_and_correct(hidden, batch["targets"])
        return StepResult(loss=loss, n=n, tokens=tokens, sums={"correct": correct})

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Perplexity(), Accuracy()

    # -- prediction --------------------------------------------------------------------------------------------

    def example(self, prompt: str) -> str:
        """Something to ask `predict`."""
        return gap(prompt)

    @torch.inference_mode()
    def predict(self, texts: Sequence[str], tokenizer: Tokenizer, *, top: int) -> list[dict[str, Any]]:
        """Each text with its <mask>s filled, each from what is known of the text alone (`tasks.filling.fill`)."""

        def logits(ids: Tensor, mask: Tensor, masked: Tensor) -> Tensor:
            counts = masked.sum(1)
            places = masked.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]  # (B, M)
            hidden = self.hidden(ids, masked.long(), places, mask)  # (B, M, D): masks of one number do not see others
            real = torch.arange(places.size(1), device=ids.device) < counts[:, None]
            return self.head.logits(hidden[real])

        return fill(
            texts, tokenizer, top=top, marks=self.marks, limit=self.max_seq_len, device=self.device, logits=logits
        )
