"""Which class a text or a pair of texts belongs to, by a linear machine over its terms, which is fitted at once.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.records import LabeledPair, LabeledText, Record
from llmcli.metrics.base import Metric
from llmcli.models.tfidf import Tfidf
from llmcli.tasks.base import Batch, Stage, StepResult
from llmcli.tasks.classes import Classes, record_of
from llmcli.tasks.single_pass import SinglePass
from llmcli.tokenizers.base import Tokenizer


class LinearClassification(SinglePass):
    """Fits P(class | text) to the `LabeledText` and `LabeledPair` records of an epoch, all at once.

    It reads the texts themselves; ids only say how long they are. names, several: as of `Classification`. What
    `batch` leaves out, repeats or changes at random of the training examples it does here too.
    """

    takes = ("LabeledText", "LabeledPair")
    kinds = ("terms",)
    learns_from = "examples"
    monitor = "val_f1"
    floor = "linear"
    asks = (("text",), ("first", "second"))

    def __init__(
        self,
        *,
        model: Tfidf,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        names: list[str],
        several: bool,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        self.classes = Classes(names, several=several)
        self.names = self.classes.names
        self.model = model

    @property
    def loss_unit(self) -> str:
        return "nats/example"

    def encoder(self, tokenizer: Tokenizer) -> TextEncoder:
        return TextEncoder(classes=self.classes, pad_id=tokenizer.pad_id or 0)

    def check(self, data: Any) -> None:
        self.model.count([texts for batch in data.first_epoch() for texts in batch["texts"]])

    def fit(self, data: Any) -> int:
        texts: list[tuple[str, ...]] = []
        labels, tokens = [], 0
        for batch in data.first_epoch():
            texts += batch["texts"]
            labels.append(batch["labels"].numpy())
            tokens += batch["n_ids"]
        joined = np.concatenate(labels)
        held = joined.astype(bool) if self.classes.several else joined[:, None] == np.arange(len(self.classes))
        self.model.fit(texts, held, several=self.classes.several)
        return tokens

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        logits, labels = self.model(batch["texts"]), batch["labels"]
        if self.classes.several:
            loss = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").sum(1)
        else:
            loss = F.cross_entropy(logits, labels, reduction="none")
        return self.classes.result(logits, labels, loss, n=batch["n_tokens"], tokens=batch["n_ids"])

    def metrics(self) -> Sequence[Metric]:
        return self.classes.metrics()

    def by_class(self, sums: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return self.classes.by_class(sums)

    def outcomes(self, records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]:
        return self.classes.outcomes(records, result)

    @torch.inference_mode()
    def predict(
        self, texts: Sequence[str | Mapping[str, str]], tokenizer: Tokenizer, *, top: int
    ) -> list[dict[str, Any]]:
        """For each text, or pair `first` and `second`, its label or labels and the `top` most probable classes."""
        records = [record_of(each) for each in texts]
        shares = self.classes.shares(self.model([record.texts() for record in records])).tolist()
        return [self.classes.answer(record, each, top=top) for record, each in zip(records, shares, strict=True)]


class TextEncoder:
    """A labelled example as its `texts` (P,), labels as of `Classes`, and all its `ids` (T,)."""

    extra = 0

    def __init__(self, *, classes: Classes, pad_id: int) -> None:
        self.classes = classes
        self.pad: Mapping[str, int] = {"ids": pad_id}

    def __call__(self, record: Record, ids: list[NDArray[Any]]) -> dict[str, Any]:
        labels = self.classes.labels(cast(LabeledText | LabeledPair, record))
        whole = np.concatenate(ids).astype(np.int64)
        return {"ids": whole if len(whole) else np.array([self.pad["ids"]]), "texts": record.texts(), "labels": labels}
