"""Which of two answers a model finds the more probable: what preferences say of a run that was not trained on them.

Shapes: B rows (two for each pair, the preferred answer first), E pairs, T time, N tokens of answers, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from llmcli.data.chat_template import ChatTemplate
from llmcli.heads import LanguageModelHead
from llmcli.losses import IGNORED
from llmcli.metrics.base import Metric
from llmcli.metrics.preference import LikelihoodAccuracy
from llmcli.metrics.text import Loss
from llmcli.models.base import Backbone
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.conversations import PreferenceEncoder
from llmcli.tokenizers.base import Tokenizer


class PreferenceLikelihood(Task):
    """Scores `Preference` records with model and head of a `Chat` task; the loss is that of the preferred answers, in
    nats each. It has nothing to learn."""

    takes = ("Preference",)
    kinds = ("attention", "recurrent", "window")
    needs_causal = True
    learns_from = "examples"

    def __init__(self, *, model: Backbone, head: LanguageModelHead, template: ChatTemplate) -> None:
        super().__init__(optimizer=None, schedule=None)
        self.model, self.head, self.template = model, head, template
        self.max_seq_len = model.max_seq_len

    @property
    def loss_unit(self) -> str:
        return "nats/answer"

    def encoder(self, tokenizer: Tokenizer) -> PreferenceEncoder:
        return PreferenceEncoder(self.template, tokenizer)

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        log_probs, each = answer_log_probs(self.model, self.head, batch)
        each = {**each, "loss": -log_probs[:, 0]}
        return StepResult.of_examples(each, n=batch["n_tokens"], tokens=batch["n_ids"])

    def metrics(self) -> Sequence[Metric]:
        return Loss(), LikelihoodAccuracy()


def answer_log_probs(model: Backbone, head: LanguageModelHead, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """ids, labels (B, T) -> ln p of both answers of each pair (E, 2), float32, and what `LikelihoodAccuracy` needs."""
    labels: Tensor = batch["labels"]
    # no mask: padding stands after the answers, where no causal model looks from
    hidden = model(batch["ids"])  # (B, T, D)
    rows, places = (labels != IGNORED).nonzero(as_tuple=True)  # (N,)
    each = -F.cross_entropy(head.logits(hidden[rows, places]), labels[rows, places], reduction="none")  # (N,)
    total = each.new_zeros(len(labels)).index_add(0, rows, each).view(-1, 2)  # (E, 2)
    means = total.detach() / (labels != IGNORED).sum(1).view(-1, 2)
    return total, {"more_probable": preferred(means[:, 0] - means[:, 1])}


def preferred(difference: Tensor) -> Tensor:
    """1 where the preferred answer is ahead, 0 where it is behind, 1/2 where neither is."""
    return (difference.sign() + 1) / 2
