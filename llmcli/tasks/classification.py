"""Which class a text or a pair of texts belongs to, one of several or any number of them.

Shapes: B batch, T time, D model width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.records import LabeledPair, LabeledText, Record
from llmcli.errors import InputError
from llmcli.heads import SequenceHead
from llmcli.layers.pooling import How
from llmcli.losses import class_weights, focal_loss
from llmcli.metrics.base import Metric
from llmcli.models.base import Backbone
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.classes import Classes, record_of
from llmcli.tasks.rows import TextRows, padded, rows_of, shorter
from llmcli.tokenizers.base import Tokenizer

Weights = Literal["none", "inverse", "effective"]


class Classification(Task):
    """Learns P(class | text) from `LabeledText` and `LabeledPair` records, with any encoder.

    names: the classes; name_counts: how many training examples each has. several: any number of them may hold at once
    (a sigmoid for each), else exactly one (a softmax). marks: the example begins with <cls>, and <sep> stands after
    each text; without, <sep> stands between the two of a pair. class_weights: of the loss, by how rare a class is.
    focal_gamma: of the focal loss, 0 for cross-entropy (`llmcli.losses`).

    Raises InputError for data without classes and options that contradict each other.
    """

    takes = ("LabeledText", "LabeledPair")
    rows_apart = True
    kinds = ("attention", "recurrent", "convolution", "average")
    needs_causal = False
    learns_from = "examples"
    monitor = "val_f1"
    floor = "linear"
    asks = (("text",), ("first", "second"))

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        names: list[str],
        name_counts: list[int],
        several: bool,
        marks: bool,
        pooling: How,
        dropout: float,
        class_weights: Weights,
        focal_gamma: float,
        label_smoothing: float,
        seq_len: int | None = None,
    ) -> None:
        """seq_len: ids of a text when its class is predicted; longer ones are cut as in training. None: not known."""
        super().__init__(optimizer=optimizer, schedule=schedule)
        self.classes = Classes(names, several=several)
        if class_weights not in get_args(Weights):
            raise InputError(f"task.class_weights ({class_weights}) must be one of {', '.join(get_args(Weights))}")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"task.label_smoothing ({label_smoothing}) must be at least 0 and below 1")
        if focal_gamma < 0:
            raise InputError(f"task.focal_gamma ({focal_gamma}) must be at least 0")
        if label_smoothing and (several or focal_gamma):
            raise InputError("task.label_smoothing goes with one class an example and task.focal_gamma=0")
        self.model = model
        self.head = SequenceHead(d_model=model.d_model, outputs=len(names), pooling=pooling, dropout=dropout)
        self.names, self.several, self.marks = self.classes.names, several, marks
        self.focal_gamma, self.label_smoothing = focal_gamma, label_smoothing
        weights = torch.ones(len(names))
        if class_weights != "none":
            weights = _class_weights(name_counts, class_weights)
        self.register_buffer("class_weights", weights, persistent=False)  # (C,)
        self.max_seq_len = model.max_seq_len
        self.longest = model.max_seq_len if seq_len is None else shorter(seq_len, model.max_seq_len)

    @property
    def width(self) -> int:
        return self.model.d_model

    @property
    def loss_unit(self) -> str:
        return "nats/example"

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return Encoder(classes=self.classes, marks=self.marks, tokenizer=tokenizer)

    # -- loss --------------------------------------------------------------------------------------------------

    def logits(self, batch: Batch) -> Tensor:
        """ids (B, T), mask (B, T) -> (B, C)."""
        mask = batch.get("mask")
        hidden = self.model(batch["ids"], mask=mask)
        return cast(Tensor, self.head(hidden, mask))

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        logits, labels = self.logits(batch).float(), batch["labels"]
        n, tokens = batch["n_tokens"], batch["n_ids"]
        loss = self._loss(logits, labels, smoothing=self.label_smoothing if stage == "train" else 0.0)
        if stage == "train":
            return StepResult(loss=loss.sum(), n=n, tokens=tokens)
        return self.classes.result(logits, labels, loss, n=n, tokens=tokens)

    def _loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Of each example (B,); validation has the weights too, so that the curves can be compared."""
        weights = cast(Tensor, self.class_weights).to(logits)  # also where those of the run are bfloat16
        if self.focal_gamma:
            terms = focal_loss(logits, labels, gamma=self.focal_gamma, weights=weights, reduction="none")
            return terms.sum(1) if self.several else terms
        if self.several:
            return F.binary_cross_entropy_with_logits(logits, labels.float(), weight=weights, reduction="none").sum(1)
        return F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing, reduction="none")

    def metrics(self) -> Sequence[Metric]:
        return self.classes.metrics()

    # -- single examples ---------------------------------------------------------------------------------------

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
        rows = rows_of(records, tokenizer, self.encoder(tokenizer), self.longest)
        found: list[dict[str, Any]] = [{}] * len(rows)
        for chosen, ids, mask in padded(rows, pad_id=tokenizer.pad_id or 0, device=self.device):
            shares = self.classes.shares(self.logits({"ids": ids, "mask": mask}).float()).tolist()
            for row, share in zip(chosen, shares, strict=True):
                found[row] = self.classes.answer(records[row], share, top=top)
        return found


class Encoder(TextRows):
    """A labelled example as `ids` (T,) and `labels`, as of `Classes`."""

    def __init__(self, *, classes: Classes, marks: bool, tokenizer: Tokenizer) -> None:
        super().__init__(marks=marks, tokenizer=tokenizer)
        self.classes = classes

    def __call__(self, record: Record, ids: list[NDArray[Any]]) -> dict[str, Any]:
        return {"ids": self.ids(ids), "labels": self.classes.labels(cast(LabeledText | LabeledPair, record))}


def _class_weights(counts: Sequence[int], how: Weights) -> Tensor:
    return class_weights(counts, how=cast(Any, how))
