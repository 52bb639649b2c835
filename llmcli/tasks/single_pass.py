"""Models that are fitted at once, not trained: one pass over the training split, then validation, in a run folder."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from llmcli.errors import InputError
from llmcli.tasks.base import Batch, Task


class SinglePass(Task):
    """A task that says how its model is `fit`; evaluated and used like any other."""

    single_pass = True

    @abstractmethod
    def fit(self, data: Any) -> int:
        """Fit the model to the training split of the data module; returns how many tokens that were."""

    def check(self, data: Any) -> None:
        """Raises InputError where the model cannot be fitted to that split; asked before there is a run folder."""
        return None

    def configure_optimizers(self) -> None:
        return None

    def on_train_start(self) -> None:
        self.tokens_seen = self.fit(self.trainer.datamodule)  # type: ignore[attr-defined]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        return None

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.trainer.should_stop = True  # by way of a validation

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        raise InputError("a run that was fitted at once has nothing to continue", "start a new one")
