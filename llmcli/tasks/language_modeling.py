"""Next-token prediction: one task for every causal backbone, with state carried over contiguous text where it has one.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.metrics.base import Metric
from llmcli.metrics.text import Accuracy, BitsPerByte, BitsPerCharacter, Loss, Perplexity
from llmcli.models.base import Backbone, State
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.choice_likelihood import ChoiceLikelihood
from llmcli.tasks.next_token import NextToken


class LanguageModeling(NextToken):
    """Learns P(token | tokens before it) from `Text` records; also a `decoding.GeneratingModel`.

    Losses are in nats per token. A recurrent backbone reads contiguous text and keeps its state from one batch to
    the next (truncated back-propagation through time, Mikolov et al. 2010); the state is part of the checkpoint.
    """

    option = "language_modeling"
    takes = ("Text",)
    rows_apart = True
    floor = "ngrams"

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        label_smoothing: float,
        head_cutoffs: list[int] | None = None,
    ) -> None:
        super().__init__(
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            causal=causal,
            label_smoothing=label_smoothing,
            head_cutoffs=head_cutoffs,
        )
        self._carried: dict[Stage, State | None] = {"train": None, "val": None}
        self._resumed: dict[str, Tensor] | None = None

    @property
    def carries_state(self) -> bool:
        return self.model.kind == "recurrent"

    # -- loss --------------------------------------------------------------------------------------------------

    def _hidden(self, batch: Batch, stage: Stage) -> Tensor:
        ids = cast(Tensor, batch["ids"])
        if not self.carries_state:
            return cast(Tensor, self.model(ids, mask=batch.get("mask"), segment_ids=batch.get("segment_ids")))
        state = self._carried[stage]
        if batch["reset"] or state is None:
            state = self.model.init_state(ids.size(0), ids.size(1))
            if stage == "train":
                if self._resumed is not None and not batch["reset"]:
                    state = cast(Any, type(state)).from_tensors(self._resumed).to(self.device)
                self._resumed = None
        hidden, state = self.model.step(ids, state)
        self._carried[stage] = state.detach()
        return hidden

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        hidden = self._hidden(batch, stage)
        if stage == "train":
            return StepResult(loss=self.head(hidden, batch["labels"]), n=batch["n_tokens"])
        loss, correct = self.head.loss_and_correct(hidden, batch["labels"])
        return StepResult(loss=loss, n=batch["n_tokens"], sums={"correct": correct})

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Perplexity(), Accuracy(), BitsPerByte(), BitsPerCharacter()

    def scorer(self, record: str) -> Task | None:
        """What scores records of another kind with this model; None for a kind that it cannot score."""
        if record != "MultipleChoice":
            return None
        return ChoiceLikelihood(model=self.model, head=self.head).to(self.device).train(self.training)

    # -- checkpoints -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        state = self._carried["train"]
        if state is not None:  # every process has rows of its own, and so a state of its own
            gathered = {name: self._gather(value) for name, value in cast(Any, state).tensors().items()}
            checkpoint["llm"]["carried"] = [
                {name: values[rank] for name, values in gathered.items()} for rank in range(self.trainer.world_size)
            ]

    def _gather(self, value: Tensor) -> list[Tensor]:
        """The tensor of each process, in the order of their ranks, on the CPU."""
        values = [value]
        if self.trainer.world_size > 1:
            values = [torch.empty_like(value) for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather(values, value.contiguous())
        return [each.cpu() for each in values]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        carried = checkpoint["llm"].get("carried")
        if carried is None:
            return
        self._resumed = carried[self.trainer.global_rank]
