"""A language model as it is asked to choose: the choice that it finds most probable after the question.

Shapes: B questions, R rows (the choices of all of them), C choices of the question that has most, T time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from llmcli.data.example_batches import Sizes
from llmcli.data.records import MultipleChoice, Record
from llmcli.heads import CHUNK, LanguageModelHead
from llmcli.losses import IGNORED
from llmcli.metrics.base import Metric
from llmcli.metrics.groups import by_group
from llmcli.metrics.text import Accuracy, Loss
from llmcli.models.base import Backbone
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.choices import by_question, decided, outcomes_of
from llmcli.tokenizers.base import Tokenizer

Array = NDArray[np.int64]


class ChoiceLikelihood(Task):
    """Scores `MultipleChoice` records by ln p(choice | context, question), summed over the choice's tokens, as minimal
    pairs are by a sentence's probability (Marvin & Linzen 2018; Warstadt et al. 2020). It has nothing to learn: model
    and head are those of a language model, and a text follows an end-of-text token.
    """

    takes = ("MultipleChoice",)
    kinds = ("attention", "recurrent", "window")
    needs_causal = True
    learns_from = "examples"
    monitor = "val_accuracy"

    def __init__(self, *, model: Backbone, head: LanguageModelHead) -> None:
        super().__init__(optimizer=None, schedule=None)
        self.model, self.head = model, head
        self.max_seq_len = model.max_seq_len

    def encoder(self, tokenizer: Tokenizer) -> ContinuationEncoder:
        return ContinuationEncoder(tokenizer=tokenizer)

    def logits(self, batch: Batch) -> Tensor:
        """ids, labels (R, T) -> log-probabilities of the choices (B, C), -inf where a question has no more."""
        hidden, labels = self.model(batch["ids"]), batch["labels"]  # what follows a row's end changes nothing before
        rows, places = (labels != IGNORED).nonzero(as_tuple=True)  # (N,) tokens of choices
        scores = hidden.new_zeros(len(labels), dtype=torch.float32)
        for some, at in zip(rows.split(CHUNK), places.split(CHUNK), strict=True):
            log_p = -F.cross_entropy(self.head.logits(hidden[some, at]), labels[some, at], reduction="none")
            scores = scores.index_add(0, some, log_p.float())
        return by_question(batch, scores)

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        assert stage == "val", "there is nothing to learn"
        return decided(batch, self.logits(batch))

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Accuracy()

    def by_class(self, sums: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return by_group(sums)

    def outcomes(self, records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]:
        return outcomes_of(records, result)


class ContinuationEncoder:
    """Each choice as the `ids` (T,) of context, question and choice on lines of their own, and `labels` (T,), the next
    ids where those are the choice's. Of what is too long the beginning is cut."""

    extra = 1
    fate = "cut"

    def __init__(self, *, tokenizer: Tokenizer) -> None:
        self.start = [tokenizer.bos_id if tokenizer.eos_id is None else tokenizer.eos_id]
        self.between = np.array(tokenizer.encode("\n"), np.int64)
        self.pad: Mapping[str, int] = {"ids": tokenizer.pad_id or 0, "labels": IGNORED}

    def rows(self, record: Record, ids: list[NDArray[Any]], limit: int) -> list[dict[str, Any]]:
        assert isinstance(record, MultipleChoice)
        context, question, *choices = ids
        before = [part for given in (context, question) if len(given) for part in (given, self.between)]
        rows = []
        for number, choice in enumerate(choices):
            whole = np.concatenate([self.start, *before, choice]).astype(np.int64)
            labels = whole[1:].copy()
            labels[: len(labels) - len(choice)] = IGNORED
            rows.append(
                {
                    "ids": whole[:-1][-limit:] if len(whole) > 1 else whole,
                    "labels": labels[-limit:] if len(labels) else np.array([IGNORED]),
                    "choice": number,
                    "answer": record.answer,
                    "group": record.group,
                    "n_tokens": int(number == 0),
                }
            )
        return rows

    def sizes(self, lengths: Array, first: Array, limit: int | None) -> Sizes:
        count = np.diff(first, append=len(lengths)) - 2  # choices of each example
        given = sum(lengths[first + at] + len(self.between) * (lengths[first + at] > 0) for at in (0, 1))
        is_choice = np.ones(len(lengths), bool)
        is_choice[first] = is_choice[first + 1] = False
        rows = np.maximum(np.repeat(given, count) + lengths[is_choice], 1)  # the last id is a label alone
        if limit is not None:
            rows = np.minimum(rows, limit)
        starts = np.concatenate([[0], count.cumsum()[:-1]])
        return Sizes(count, np.maximum.reduceat(rows, starts), np.add.reduceat(rows, starts))
