"""Which class a text or a pair of texts belongs to, one of several or any number of them.

Shapes: B batch, T time, D model width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.example_batches import shortened
from llmcli.data.records import LabeledPair, LabeledText, Record
from llmcli.errors import InputError
from llmcli.heads import SequenceHead
from llmcli.layers.pooling import How
from llmcli.losses import class_weights, focal_loss
from llmcli.metrics.base import Metric
from llmcli.metrics.calibration import CalibrationError, by_confidence
from llmcli.metrics.classification import (
    ClassMetric,
    MacroF1,
    MacroPrecision,
    MacroRecall,
    Matthews,
    MicroF1,
    class_counts,
    label_counts,
    per_class,
)
from llmcli.metrics.text import Accuracy, Loss
from llmcli.models.base import Backbone
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tokenizers.base import Tokenizer

Weights = Literal["none", "inverse", "effective"]
AT_ONCE = 64  # texts of similar length that are predicted together


class Classification(Task):
    """Learns P(class | text) from `LabeledText` and `LabeledPair` records, with any encoder.

    names: the classes; name_counts: how many training examples each has. several: any number of them may hold at once
    (a sigmoid for each), else exactly one (a softmax). marks: the example begins with <cls>, and <sep> stands after
    each text; without, <sep> stands between the two of a pair. class_weights: of the loss, by how rare a class is.
    focal_gamma: of the focal loss, 0 for cross-entropy (`llmcli.losses`).

    Raises InputError for data without classes and options that contradict each other.
    """

    takes = ("LabeledText", "LabeledPair")
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
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        if len(names) < 2:
            found = f"only {names[0]!r}" if names else "none"
            raise InputError(f"classification needs two classes or more; the train split has {found}")
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
        self.names, self.several, self.marks = tuple(names), several, marks
        self.focal_gamma, self.label_smoothing = focal_gamma, label_smoothing
        weights = torch.ones(len(names))
        if class_weights != "none":
            weights = _class_weights(name_counts, class_weights)
        self.register_buffer("class_weights", weights, persistent=False)  # (C,)
        self.max_seq_len = model.max_seq_len

    @property
    def width(self) -> int:
        return self.model.d_model

    @property
    def loss_unit(self) -> str:
        return "nats/example"

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return Encoder(names=self.names, several=self.several, marks=self.marks, tokenizer=tokenizer)

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
        if self.several:
            shares, predicted = logits.sigmoid(), logits > 0  # (B, C)
            right = (predicted == labels.bool()).all(1)
            counts, calibration = label_counts(predicted, labels.bool()), {}
        else:
            shares = logits.softmax(1)  # (B, C)
            confidence, predicted = shares.max(1)  # (B,)
            right = predicted == labels
            counts = class_counts(predicted, labels, len(self.names))
            calibration = by_confidence(confidence, right)
        return StepResult.of_examples(
            {"loss": loss, "correct": right, **counts},
            n=n,
            tokens=tokens,
            sums=calibration,
            outputs={"shares": shares, "predicted": predicted},
        )

    def _loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Of each example (B,); validation has the weights too, so that the curves can be compared."""
        weights = cast(Tensor, self.class_weights)
        if self.focal_gamma:
            terms = focal_loss(logits, labels, gamma=self.focal_gamma, weights=weights, reduction="none")
            return terms.sum(1) if self.several else terms
        if self.several:
            return F.binary_cross_entropy_with_logits(logits, labels.float(), weight=weights, reduction="none").sum(1)
        return F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing, reduction="none")

    def metrics(self) -> Sequence[Metric]:
        classes = len(self.names)
        means = (kind(classes=classes) for kind in (MacroF1, MacroPrecision, MacroRecall))
        if self.several:
            return Loss(), Accuracy(), *means, MicroF1(classes=classes)
        return Loss(), Accuracy(), *means, Matthews(classes=classes), CalibrationError()

    # -- single examples ---------------------------------------------------------------------------------------

    def by_class(self, sums: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return per_class(**{name: sums[name] for name in ClassMetric.sums}).named(self.names)

    def outcomes(self, records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]:
        """`probability` is that of the predicted class; with several labels `probabilities` are of all true or
        predicted ones."""
        rows = (result.outputs["predicted"], result.outputs["shares"], result.each["correct"], result.each["loss"])
        columns = zip(records, *(row.tolist() for row in rows), strict=True)
        return [self._outcome(*column) for column in columns]

    def _outcome(
        self, record: Record, predicted: int | list[bool], shares: list[float], right: bool, loss: float
    ) -> dict[str, Any]:
        texts, true = record.texts(), record.names()
        said: dict[str, Any] = {"text": texts[0]} if len(texts) == 1 else {"texts": list(texts)}
        if isinstance(predicted, int):
            answer = {"true": true[0], "predicted": self.names[predicted], "probability": shares[predicted]}
        else:
            found = [name for name, chosen in zip(self.names, predicted, strict=True) if chosen]
            named = {name: share for name, share in zip(self.names, shares, strict=True) if name in {*true, *found}}
            answer = {"true": sorted(true, key=self.names.index), "predicted": found, "probabilities": named}
        return {**said, **answer, "right": right, "loss": loss}

    # -- prediction --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(
        self, texts: Sequence[str | Mapping[str, str]], tokenizer: Tokenizer, *, top: int
    ) -> list[dict[str, Any]]:
        """For each text, or pair `first` and `second`, its label or labels and the `top` most probable classes."""
        encode = self.encoder(tokenizer)
        records = [
            LabeledText(each) if isinstance(each, str) else LabeledPair(each["first"], each["second"]) for each in texts
        ]
        rows = [self._row(record, encode, tokenizer) for record in records]
        found: list[dict[str, Any]] = [{}] * len(rows)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(order), AT_ONCE):
            chosen = order[start : start + AT_ONCE]
            batch = _pad([rows[row] for row in chosen], encode.pad["ids"], self.device)
            logits = self.logits(batch).float()
            shares = (logits.sigmoid() if self.several else logits.softmax(1)).cpu()
            for row, share in zip(chosen, shares.tolist(), strict=True):
                found[row] = self._named(records[row], share, top)
        return found

    def _row(self, record: Record, encode: Encoder, tokenizer: Tokenizer) -> NDArray[np.int64]:
        ids = [np.array(each, np.int64) for each in tokenizer.encode_batch(record.texts())]
        if self.max_seq_len is not None:
            _, ids = shortened(record, ids, self.max_seq_len - encode.extra)  # marks stay
        return encode.ids(ids)

    def _named(self, record: Record, shares: list[float], top: int) -> dict[str, Any]:
        ranked = sorted(zip(self.names, shares, strict=True), key=lambda pair: -pair[1])
        probabilities = [{"label": name, "probability": share} for name, share in ranked[:top]]
        texts = record.texts()
        asked: dict[str, Any] = {"text": texts[0]} if len(texts) == 1 else {"texts": list(texts)}
        if self.several:
            return {**asked, "labels": [name for name, share in ranked if share > 0.5], "classes": probabilities}
        return {**asked, "label": ranked[0][0], "classes": probabilities}


class Encoder:
    """A labelled example as ids (T,) and labels: a class id, or (C,) zeros and ones where several may hold."""

    def __init__(self, *, names: Sequence[str], several: bool, marks: bool, tokenizer: Tokenizer) -> None:
        self.class_ids = {name: index for index, name in enumerate(names)}
        self.several, self.marks = several, marks
        self.cls_id, self.sep_id = tokenizer.cls_id, tokenizer.sep_id
        if marks and (self.cls_id is None or self.sep_id is None):
            raise InputError("task.marks is on, but this tokenizer has no <cls> and <sep>", "task.marks=false")
        self.pad: Mapping[str, int] = {"ids": tokenizer.pad_id or 0}
        self.extra = 3 if marks else 1

    def __call__(self, record: Record, ids: list[NDArray[Any]]) -> dict[str, Any]:
        assert isinstance(record, LabeledText | LabeledPair)
        return {"ids": self.ids(ids), "labels": self._labels(record)}

    def ids(self, texts: list[NDArray[Any]]) -> NDArray[np.int64]:
        """One row of ids: `<cls> a <sep> b <sep>`, or without marks `a`, `a <sep> b`. Never empty."""
        row: list[Any] = [[self.cls_id]] if self.marks else []
        for place, text in enumerate(texts):
            row.append(text)
            if self.marks or place < len(texts) - 1:
                row.append([self.sep_id])
        joined = np.concatenate(row).astype(np.int64)
        return joined if len(joined) else np.array([self.pad["ids"]], np.int64)

    def _labels(self, record: LabeledText | LabeledPair) -> Any:
        if self.several:
            present = np.zeros(len(self.class_ids), np.int64)
            present[[self._class_id(name) for name in record.labels]] = 1
            return present
        if len(record.labels) != 1:
            raise InputError(
                f"an example has {len(record.labels)} labels, not one: {record.texts()[0][:40]!r}",
                "task.several=true learns any number of them",
            )
        return self._class_id(record.labels[0])

    def _class_id(self, name: str) -> int:
        if name not in self.class_ids:
            known = ", ".join(islice(self.class_ids, 10)) + (", ..." if len(self.class_ids) > 10 else "")
            raise InputError(f"the run was not trained on the label {name[:40]!r}", f"its labels: {known}")
        return self.class_ids[name]


def _class_weights(counts: Sequence[int], how: Weights) -> Tensor:
    return class_weights(counts, how=cast(Any, how))


def _pad(rows: Sequence[NDArray[np.int64]], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad_id)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.from_numpy(row)
    mask = torch.arange(ids.size(1)) < lengths[:, None]  # (B, T)
    return {"ids": ids.to(device), "mask": mask.to(device)}
