"""What tasks that choose classes have in common: labels as numbers, figures from logits, answers with names.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from llmcli.data.records import LabeledPair, LabeledText, Record
from llmcli.errors import InputError
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
from llmcli.tasks.base import StepResult


class Classes:
    """The names of C classes. several: any number of them may hold at once (a sigmoid for each), else exactly one.

    Raises InputError for fewer than two.
    """

    def __init__(self, names: Sequence[str], *, several: bool) -> None:
        if len(names) < 2:
            found = f"only {names[0]!r}" if names else "none"
            raise InputError(f"classification needs two classes or more; the train split has {found}")
        self.names, self.several = tuple(names), several
        self._numbers = {name: number for number, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.names)

    def labels(self, record: LabeledText | LabeledPair) -> Any:
        """The number of its class; where several may hold, (C,) zeros and ones. Raises InputError for other labels."""
        if self.several:
            held = np.zeros(len(self), np.int64)
            held[[self._number(name) for name in record.labels]] = 1
            return held
        if len(record.labels) != 1:
            raise InputError(
                f"an example has {len(record.labels)} labels, not one: {record.texts()[0][:40]!r}",
                "task.several=true learns any number of them",
            )
        return self._number(record.labels[0])

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            known = ", ".join(islice(self.names, 10)) + (", ..." if len(self.names) > 10 else "")
            raise InputError(f"the run was not trained on the label {name[:40]!r}", f"its labels: {known}")
        return self._numbers[name]

    # -- figures -----------------------------------------------------------------------------------------------

    def shares(self, logits: Tensor) -> Tensor:
        """logits (B, C) -> probabilities (B, C)."""
        return logits.sigmoid() if self.several else logits.softmax(1)

    def result(self, logits: Tensor, labels: Tensor, loss: Tensor, *, n: int, tokens: int) -> StepResult:
        """Of a validation batch: logits (B, C), labels (B,) or (B, C), loss (B,)."""
        shares = self.shares(logits)  # (B, C)
        if self.several:
            predicted = logits > 0  # (B, C)
            right = (predicted == labels.bool()).all(1)
            counts, calibration = label_counts(predicted, labels.bool()), {}
        else:
            confidence, predicted = shares.max(1)  # (B,)
            right = predicted == labels
            counts = class_counts(predicted, labels, len(self))
            calibration = by_confidence(confidence, right)
        return StepResult.of_examples(
            {"loss": loss, "correct": right, **counts},
            n=n,
            tokens=tokens,
            sums=calibration,
            outputs={"shares": shares, "predicted": predicted},
        )

    def metrics(self) -> Sequence[Metric]:
        means = (kind(classes=len(self)) for kind in (MacroF1, MacroPrecision, MacroRecall))
        if self.several:
            return Loss(), Accuracy(), *means, MicroF1(classes=len(self))
        return Loss(), Accuracy(), *means, Matthews(classes=len(self)), CalibrationError()

    def by_class(self, sums: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        return per_class(**{name: sums[name] for name in ClassMetric.sums}).named(self.names)

    # -- single examples ---------------------------------------------------------------------------------------

    def outcomes(self, records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]:
        """`probability` is that of the predicted class; with several labels `probabilities` are of all true or
        predicted ones."""
        rows = (result.outputs["predicted"], result.outputs["shares"], result.each["correct"], result.each["loss"])
        columns = zip(records, *(row.tolist() for row in rows), strict=True)
        return [self._outcome(*column) for column in columns]

    def _outcome(
        self, record: Record, predicted: int | list[bool], shares: list[float], right: bool, loss: float
    ) -> dict[str, Any]:
        true = record.names()
        if isinstance(predicted, int):
            answer = {"true": true[0], "predicted": self.names[predicted], "probability": shares[predicted]}
        else:
            found = [name for name, chosen in zip(self.names, predicted, strict=True) if chosen]
            named = {name: share for name, share in zip(self.names, shares, strict=True) if name in {*true, *found}}
            answer = {"true": sorted(true, key=self.names.index), "predicted": found, "probabilities": named}
        return {**shown(record), **answer, "right": right, "loss": loss}

    def answer(self, record: Record, shares: Sequence[float], *, top: int) -> dict[str, Any]:
        """The label or labels that the probabilities (C,) speak for, and the `top` most probable classes."""
        ranked = sorted(zip(self.names, shares, strict=True), key=lambda pair: -pair[1])
        probabilities = [{"label": name, "probability": share} for name, share in ranked[:top]]
        if self.several:
            labels = [name for name, share in ranked if share > 0.5]
            return {**shown(record), "labels": labels, "classes": probabilities}
        return {**shown(record), "label": ranked[0][0], "classes": probabilities}


def shown(record: Record) -> dict[str, Any]:
    """Its text or its texts, as answers begin."""
    texts = record.texts()
    return {"text": texts[0]} if len(texts) == 1 else {"texts": list(texts)}


def record_of(asked: str | Mapping[str, str]) -> LabeledText | LabeledPair:
    """What is asked about: a text, or the `first` and `second` of a pair."""
    return LabeledText(asked) if isinstance(asked, str) else LabeledPair(asked["first"], asked["second"])
