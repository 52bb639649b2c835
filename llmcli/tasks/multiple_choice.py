"""Which of several choices is right: each is read with its question and scored, a softmax over the choices decides.

Shapes: B examples, R rows (the choices of all of them), C choices of the example that has most, T time, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.example_batches import Sizes, collate, shortened
from llmcli.data.records import MultipleChoice as Question
from llmcli.data.records import Record
from llmcli.errors import InputError
from llmcli.heads import SequenceHead
from llmcli.layers.pooling import How
from llmcli.metrics.base import Metric
from llmcli.metrics.groups import by_group
from llmcli.metrics.text import Accuracy, Loss
from llmcli.models.base import Backbone
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.choices import by_question, decided, outcomes_of, right_choices
from llmcli.tasks.rows import by_length, shorter
from llmcli.tokenizers.base import Tokenizer

Array = NDArray[np.int64]


class MultipleChoice(Task):
    """Learns P(choice | context, question) from `MultipleChoice` records with any encoder, which reads each choice with
    the same context and question (as Radford et al. 2018 and Devlin et al. 2019 do). Questions may have any number of
    choices.
    """

    takes = ("MultipleChoice",)
    kinds = ("attention", "recurrent", "convolution", "average")
    needs_causal = False
    learns_from = "examples"
    monitor = "val_accuracy"
    asks: ClassVar = (("question", "choices"), ("context", "question", "choices"), ("choices",))

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        seq_len: int,
        pooling: How,
        dropout: float,
    ) -> None:
        """seq_len: ids of a row when a choice is predicted; longer ones are cut as in training."""
        super().__init__(optimizer=optimizer, schedule=schedule)
        self.model = model
        self.head = SequenceHead(d_model=model.d_model, outputs=1, pooling=pooling, dropout=dropout)
        self.max_seq_len = model.max_seq_len
        self.longest = shorter(seq_len, model.max_seq_len)

    @property
    def width(self) -> int:
        return self.model.d_model

    @property
    def loss_unit(self) -> str:
        return "nats/question"

    def encoder(self, tokenizer: Tokenizer) -> ChoiceEncoder:
        return ChoiceEncoder(tokenizer=tokenizer)

    # -- loss --------------------------------------------------------------------------------------------------

    def logits(self, batch: Batch) -> Tensor:
        """ids, mask (R, T), example and choice (R,) -> (B, C) in float32, -inf where a question has no more choices."""
        mask = batch.get("mask")
        return by_question(batch, self.head(self.model(batch["ids"], mask=mask), mask).squeeze(1).float())

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        logits = self.logits(batch)
        if stage == "train":
            loss = F.cross_entropy(logits, right_choices(batch), reduction="sum")
            return StepResult(loss=loss, n=batch["n_tokens"], tokens=batch["n_ids"])
        return decided(batch, logits)

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Accuracy()

    # -- single questions --------------------------------------------------------------------------------------

    def by_class(self, sums: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return by_group(sums)

    def outcomes(self, records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]:
        return outcomes_of(records, result)

    @torch.inference_mode()
    def predict(self, texts: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, *, top: int) -> list[dict[str, Any]]:
        """For each question the choice, and the probabilities of the `top` most probable ones."""
        encode = self.encoder(tokenizer)
        records = [
            Question(each.get("context", ""), each.get("question", ""), tuple(each["choices"]), 0) for each in texts
        ]
        rows = [encode.rows(record, encode.ids(record), self.longest) for record in records]
        found: list[dict[str, Any]] = [{}] * len(rows)
        for chosen in by_length([max(len(row["ids"]) for row in each) for each in rows]):
            batch = collate([row for place in chosen for row in rows[place]], encode.pad)
            batch["example"] = torch.tensor([of for of, place in enumerate(chosen) for _ in rows[place]])
            given = {name: value.to(self.device) for name, value in batch.items() if isinstance(value, Tensor)}
            shares = self.logits(given).softmax(1).tolist()
            for place, share in zip(chosen, shares, strict=True):
                found[place] = _ranked(records[place], share, top)
        return found


def _ranked(record: Question, shares: Sequence[float], top: int) -> dict[str, Any]:
    ranked = sorted(zip(record.choices, shares, strict=False), key=lambda pair: -pair[1])
    probabilities = [{"choice": choice, "probability": share} for choice, share in ranked[:top]]
    return {"question": record.question or record.context, "choice": ranked[0][0], "choices": probabilities}


class ChoiceEncoder:
    """Each choice as a row `<cls> context <sep> question <sep> choice <sep>`, without a context or question that is
    empty, the longest cut first; `choice` is its number and `answer` that of the right one."""

    extra = 4
    fate = "cut"

    def __init__(self, *, tokenizer: Tokenizer) -> None:
        if tokenizer.cls_id is None or tokenizer.sep_id is None:
            raise InputError("task=multiple_choice needs a tokenizer with <cls> and <sep>, which this one lacks")
        self.tokenizer = tokenizer
        self.cls, self.sep = [tokenizer.cls_id], [tokenizer.sep_id]
        self.pad: Mapping[str, int] = {"ids": tokenizer.pad_id or 0}

    def ids(self, record: Question) -> list[Array]:
        return [np.array(each, np.int64) for each in self.tokenizer.encode_batch(record.texts())]

    def rows(self, record: Record, ids: list[NDArray[Any]], limit: int) -> list[dict[str, Any]]:
        assert isinstance(record, Question)
        context, question, *choices = ids
        rows = []
        for number, choice in enumerate(choices):
            parts = [part for part in (context, question) if len(part)] + [choice]
            _, parts = shortened(record, parts, limit - 1 - len(parts))
            row = [self.cls, *(piece for part in parts for piece in (part, self.sep))]
            rows.append(
                {
                    "ids": np.concatenate(row).astype(np.int64),
                    "choice": number,
                    "answer": record.answer,
                    "group": record.group,
                    "n_tokens": int(number == 0),  # one target for all of them
                }
            )
        return rows

    def sizes(self, lengths: Array, first: Array, limit: int | None) -> Sizes:
        count = np.diff(first, append=len(lengths)) - 2  # choices of each example
        given = lengths[first] + lengths[first + 1]
        parts = (lengths[first] > 0).astype(np.int64) + (lengths[first + 1] > 0) + 1
        is_choice = np.ones(len(lengths), bool)
        is_choice[first] = is_choice[first + 1] = False
        rows = np.repeat(given + parts + 1, count) + lengths[is_choice]
        if limit is not None:
            rows = np.minimum(rows, limit)
        starts = np.concatenate([[0], count.cumsum()[:-1]])
        return Sizes(count, np.maximum.reduceat(rows, starts), np.add.reduceat(rows, starts))
