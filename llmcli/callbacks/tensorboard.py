"""The figures of a run as TensorBoard shows them: tensorboard --logdir runs."""

from __future__ import annotations

import pytorch_lightning as pl

from llmcli.callbacks.base import Callback, Context
from llmcli.callbacks.history import Now
from llmcli.errors import InputError


class TensorBoard(Callback):
    """Writes every row of metrics.csv as scalars to RUN/tensorboard: train/*, and val/* after each validation.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as err:
            raise InputError("logger=tensorboard needs TensorBoard", 'pip install "llmcli[tensorboard]"') from err
        self._new_writer = SummaryWriter
        self._writer: SummaryWriter | None = None

    def attach(self, context: Context) -> None:
        self._folder, self._history = context.folder / "tensorboard", context.history
        context.history.listeners.append(self._write)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            # of a resumed run the points after its checkpoint come again: the first ones go
            self._writer = self._new_writer(str(self._folder), purge_step=trainer.global_step + 1)
        self._row, self._validation = self._history.now.seconds, self._history.now.val

    def _write(self, now: Now) -> None:
        """Called after every row and every validation, with the older figures still in `now`: each is written once."""
        if self._writer is None:
            return
        if now.seconds != self._row:
            self._row = now.seconds
            for name in ("loss", "lr", "tokens_per_second"):
                self._writer.add_scalar(f"train/{name}", getattr(now, name), now.step)
        if now.val is not self._validation:
            self._validation = now.val
            for name, value in now.val.items():
                self._writer.add_scalar(f"val/{name}", value, now.step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
