"""Replaced token detection (Clark et al. 2020, ELECTRA): a small generator fills hidden tokens in, and the model tells
which tokens of the text are not the original ones.

Shapes: B batch, T time, D model width, V vocabulary, N hidden tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.masking import Masking, Unit
from llmcli.data.replacing import Replacing
from llmcli.errors import InputError
from llmcli.heads import MaskedHead
from llmcli.losses import cross_entropy
from llmcli.metrics.base import Metric
from llmcli.metrics.pretraining import DiscriminatorLoss, GeneratorAccuracy, GeneratorLoss, ReplacedF1
from llmcli.metrics.text import Accuracy, Loss
from llmcli.models.base import Backbone, check_both_ways
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.filling import framed
from llmcli.tasks.rows import padded
from llmcli.tokenizers.base import Tokenizer


class Generating(Protocol):
    """What the task needs of a model beside a backbone."""

    def smaller(self, share: float) -> Backbone:
        """A new, narrower encoder on the same embedding tables."""


class ReplacedToken(Task):
    """Learns P(token was replaced | text) from windows of running text; fine-tuning takes `model`, the discriminator.

    rate, unit and marks say which tokens the generator fills in (`data.masking.Masking`). It learns P(hidden token |
    the others) beside, `generator_size` as wide as the model; it gets no gradient of the discriminator's, which counts
    `weight` times as much. A filled-in token that is the original one is not replaced.

    The summed loss is weight * discriminator's + generator's / rate, and its mean is over all tokens: where the share
    `rate` of them is hidden, that is the weighted sum of the two means.
    """

    takes = ("Text",)
    kinds = ("attention",)
    calls = ("smaller",)
    needs_causal = False

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        generator_size: float,
        weight: float,
        rate: float,
        unit: Unit,
        marks: bool,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        check_both_ways(model, causal=causal, task="replaced_token")
        if not 0 < generator_size <= 1:
            raise InputError(f"task.generator_size ({generator_size}) must be above 0 and at most 1")
        if weight <= 0:
            raise InputError(f"task.weight ({weight}) must be above 0")
        self.model = model
        self.head = nn.Sequential(nn.Linear(model.d_model, model.d_model), nn.GELU(), nn.Linear(model.d_model, 1))
        for layer in (self.head[0], self.head[2]):
            nn.init.normal_(cast(nn.Linear, layer).weight, std=0.02)
            nn.init.zeros_(cast(nn.Linear, layer).bias)
        self.generator = cast(Generating, model).smaller(generator_size)
        self.generator_head = MaskedHead(backbone=self.generator)
        self.weight, self.rate, self.unit, self.marks = weight, rate, unit, marks
        self.max_seq_len = model.max_seq_len

    @property
    def width(self) -> int:
        return self.model.d_model

    def encoder(self, tokenizer: Tokenizer) -> Replacing:
        return Replacing(Masking(tokenizer, rate=self.rate, random=0.0, kept=0.0, unit=self.unit, marks=self.marks))

    # -- loss --------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        shown, places, targets, mask = batch["ids"], batch["places"], batch["targets"], batch.get("mask")
        hidden = self.generator(shown, mask=mask).flatten(0, 1)[places]  # (N, D of the generator)
        logits = self.generator_head.logits(hidden)  # (N, V)
        filled_in = drawn(logits.detach(), batch["draws"])  # (N,)
        ids = shown.flatten().scatter(0, places, filled_in).view_as(shown)
        scores = self.scores(ids, mask)  # (B, T)
        replaced = torch.zeros_like(scores).flatten().scatter(0, places, (filled_in != targets).to(scores)).view_as(ids)
        each = F.binary_cross_entropy_with_logits(scores, replaced, reduction="none")
        discriminator_loss = (each if mask is None else each * mask).sum()
        generator_loss = cross_entropy(logits, targets, label_smoothing=0.0)
        loss = self.weight * discriminator_loss + generator_loss / self.rate
        if stage == "train":
            return StepResult(loss=loss, n=batch["n_ids"])
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        predicted, true = (scores > 0) & real, replaced.bool()
        sums = {
            "discriminator_loss": discriminator_loss,
            "correct": ((predicted == true) & real).sum(),
            "hits": (predicted & true).sum(),
            "predicted": predicted.sum(),
            "replaced": true.sum(),
            "generator_loss": generator_loss,
            "generator_correct": (logits.argmax(1) == targets).sum(),
            "hidden": torch.tensor(len(targets)),
        }
        return StepResult(loss=loss, n=batch["n_ids"], sums=sums)

    def scores(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """ids (B, T) -> the logit of "replaced" of each token (B, T), in float32 or wider."""
        scores = self.head(self.model(ids, mask=mask)).squeeze(-1)
        return cast(Tensor, scores.to(torch.promote_types(scores.dtype, torch.float32)))

    def metrics(self) -> Sequence[Metric]:
        return Loss(), DiscriminatorLoss(), Accuracy(), ReplacedF1(), GeneratorLoss(), GeneratorAccuracy()

    # -- prediction --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, texts: Sequence[str], tokenizer: Tokenizer, *, top: int) -> list[dict[str, Any]]:
        """Every token of each text in its order, with the probability that it was replaced; `top` limits nothing.

        Raises InputError for a text that is longer than the model reads.
        """
        encoded = tokenizer.encode_batch(list(texts))
        rows = [
            framed(text, list(ids), tokenizer, marks=self.marks, limit=self.max_seq_len)
            for text, ids in zip(texts, encoded, strict=True)
        ]
        found: list[dict[str, Any]] = [{}] * len(rows)
        first = 1 if self.marks else 0
        for chosen, ids, mask in padded(rows, pad_id=tokenizer.pad_id or 0, device=self.device):
            for row, shares in zip(chosen, self.scores(ids, mask).sigmoid().tolist(), strict=True):
                tokens = zip(encoded[row], shares[first:], strict=False)
                named = [{"token": tokenizer.token(index), "replaced": share} for index, share in tokens]
                found[row] = {"text": texts[row], "tokens": named}
        return found


def drawn(logits: Tensor, draws: Tensor) -> Tensor:
    """logits (N, V), draws (N,) in [0, 1) -> ids (N,), each with its probability: where the running total passes."""
    totals = logits.softmax(1).cumsum(1)  # (N, V)
    # of the total as it was rounded: one token of probability 1 more would be none
    return torch.searchsorted(totals, draws[:, None] * totals[:, -1:], right=True)[:, 0].clamp(max=logits.size(1) - 1)
