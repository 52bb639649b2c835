"""Which number belongs to a text or a pair of texts: how good, how similar, how much.

Shapes: B batch, T time, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.records import LabeledPair, LabeledText, Record
from llmcli.errors import InputError
from llmcli.heads import SequenceHead
from llmcli.layers.pooling import How
from llmcli.metrics.base import Metric
from llmcli.metrics.regression import AbsoluteError, Explained, Pearson, SquaredError, of_values
from llmcli.metrics.text import Loss
from llmcli.models.base import Backbone
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.classes import record_of, shown
from llmcli.tasks.rows import TextRows, padded, rows_of, shorter
from llmcli.tokenizers.base import Tokenizer


class Regression(Task):
    """Learns a number from `LabeledText` and `LabeledPair` records with a value, with any encoder: least squares.

    value_mean, value_std: of the training values, by which they are standardised, so that the size of the loss and of
    the head does not depend on their unit. marks: as of `Classification`.

    Raises InputError for data without values, or with one value alone.
    """

    takes = ("LabeledText", "LabeledPair")
    rows_apart = True
    kinds = ("attention", "recurrent", "convolution", "average")
    needs_causal = False
    learns_from = "examples"
    asks: ClassVar = (("text",), ("first", "second"))

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        value_mean: float | None,
        value_std: float | None,
        marks: bool,
        pooling: How,
        dropout: float,
        seq_len: int | None = None,
    ) -> None:
        """seq_len: as of `Classification`."""
        super().__init__(optimizer=optimizer, schedule=schedule)
        if value_mean is None or value_std is None:
            raise InputError(
                "task=regression needs numbers to predict; the train split has none",
                "data.reader.value=COLUMN data.reader.label=null",
            )
        if value_std <= 0:
            raise InputError(f"every training example has the value {value_mean:g}: there is nothing to learn")
        self.model = model
        self.head = SequenceHead(d_model=model.d_model, outputs=1, pooling=pooling, dropout=dropout)
        self.mean, self.std, self.marks = value_mean, value_std, marks
        self.max_seq_len = model.max_seq_len
        self.longest = model.max_seq_len if seq_len is None else shorter(seq_len, model.max_seq_len)

    @property
    def width(self) -> int:
        return self.model.d_model

    @property
    def loss_unit(self) -> str:
        return "squared standard deviations"

    def encoder(self, tokenizer: Tokenizer) -> ValueEncoder:
        return ValueEncoder(mean=self.mean, std=self.std, marks=self.marks, tokenizer=tokenizer)

    # -- loss --------------------------------------------------------------------------------------------------

    def standardised(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """ids (B, T), mask (B, T) -> predicted numbers (B,) in float32, in deviations from the mean."""
        return cast(Tensor, self.head(self.model(ids, mask=mask), mask).squeeze(1).float())

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        predicted, true = self.standardised(batch["ids"], batch.get("mask")), batch["values"]
        loss = (predicted - true) ** 2
        if stage == "train":
            return StepResult(loss=loss.sum(), n=batch["n_tokens"], tokens=batch["n_ids"])
        return StepResult.of_examples(
            {"loss": loss, **of_values(predicted, true)},
            n=batch["n_tokens"],
            tokens=batch["n_ids"],
            outputs={"standardised": predicted},
        )

    def _values(self, standardised: Tensor) -> list[float]:
        """(B,) -> in the unit of the data, in double precision, which not every device has."""
        return [value * self.std + self.mean for value in standardised.tolist()]

    def metrics(self) -> Sequence[Metric]:
        return Loss(), SquaredError(scale=self.std), AbsoluteError(scale=self.std), Pearson(), Explained()

    # -- single examples ---------------------------------------------------------------------------------------

    def outcomes(self, records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]:
        """`right` is a prediction less than half of the training values' deviation away."""
        rows = zip(records, self._values(result.outputs["standardised"]), result.each["loss"].tolist(), strict=True)
        return [
            {
                **shown(record),
                "true": (true := cast(LabeledText | LabeledPair, record).value or 0.0),
                "predicted": value,
                "right": abs(value - true) < self.std / 2,
                "loss": loss,
            }
            for record, value, loss in rows
        ]

    @torch.inference_mode()
    def predict(
        self, texts: Sequence[str | Mapping[str, str]], tokenizer: Tokenizer, *, top: int
    ) -> list[dict[str, Any]]:
        """For each text, or pair `first` and `second`, its number; there is one, whatever `top` says."""
        records = [record_of(each) for each in texts]
        rows = rows_of(records, tokenizer, self.encoder(tokenizer), self.longest)
        found: list[dict[str, Any]] = [{}] * len(rows)
        for chosen, ids, mask in padded(rows, pad_id=tokenizer.pad_id or 0, device=self.device):
            for row, value in zip(chosen, self._values(self.standardised(ids, mask)), strict=True):
                found[row] = {**shown(records[row]), "value": value}
        return found


class ValueEncoder(TextRows):
    """An example as ids (T,), written like those of a class, and `values`, the number in deviations from the mean."""

    def __init__(self, *, mean: float, std: float, marks: bool, tokenizer: Tokenizer) -> None:
        super().__init__(marks=marks, tokenizer=tokenizer)
        self.mean, self.std = mean, std

    def __call__(self, record: Record, ids: list[NDArray[Any]]) -> dict[str, Any]:
        assert isinstance(record, LabeledText | LabeledPair)
        if record.value is None:
            raise InputError(
                f"an example has no number to predict: {record.texts()[0][:40]!r}", "data.reader.value=COLUMN names it"
            )
        return {"ids": self.ids(ids), "values": (record.value - self.mean) / self.std}
