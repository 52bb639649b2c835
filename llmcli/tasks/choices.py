"""Scores of choices, one a row of the batch, and what they come to; for tasks that choose.

Shapes: B questions, R rows (the choices of all of them), C choices of the question that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.data.records import MultipleChoice, Record
from llmcli.metrics.groups import group_sums
from llmcli.tasks.base import Batch, StepResult


def by_question(batch: Batch, scores: Tensor) -> Tensor:
    """scores, example, choice (R,) -> (B, C), -inf where a question has no more choices."""
    example, choice = batch["example"], batch["choice"]
    table = scores.new_full((int(example[-1]) + 1, int(choice.max()) + 1), -torch.inf)
    return table.index_put((example, choice), scores)


def right_choices(batch: Batch) -> Tensor:
    """(B,): every choice of a question says which is right."""
    right: Tensor = batch["answer"][batch["choice"] == 0]
    return right


def decided(batch: Batch, logits: Tensor) -> StepResult:
    """What a validation batch comes to: logits (B, C)."""
    labels = right_choices(batch)
    predicted = logits.argmax(1)
    groups = [group for group, choice in zip(batch["group"], batch["choice"].tolist(), strict=True) if choice == 0]
    return StepResult.of_examples(
        {"loss": F.cross_entropy(logits, labels, reduction="none"), "correct": predicted == labels},
        n=batch["n_tokens"],
        tokens=batch["n_ids"],
        sums=group_sums(groups, predicted == labels),
        outputs={"predicted": predicted, "probability": logits.softmax(1).amax(1)},
    )


def outcomes_of(records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]:
    """`texts` are context and question, where there are any, and the choices; `group` is that of the record."""
    columns = (*(result.outputs[name] for name in ("predicted", "probability")), result.each["loss"])
    rows = zip(cast(Sequence[MultipleChoice], records), *(column.tolist() for column in columns), strict=True)
    return [
        {
            "texts": [text for text in record.texts() if text],
            **({"group": record.group} if record.group else {}),
            "true": record.choices[record.answer],
            "predicted": record.choices[predicted],
            "probability": probability,
            "right": predicted == record.answer,
            "loss": loss,
        }
        for record, predicted, probability, loss in rows
    ]
