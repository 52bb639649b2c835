"""What happens at every step: its random seed, the end of the budget, a signal to stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

from llmcli import ui
from llmcli.callbacks.base import Callback, Order
from llmcli.callbacks.checkpoints import Checkpoints, validation_due
from llmcli.callbacks.history import History
from llmcli.seeds import mix
from llmcli.tasks.base import Task
from llmcli.trainer import Budget


class StepSeeds(Callback):
    """Dropout and every other draw of a step follow from (seed, rank, step), so resume needs no generator state."""

    order = Order.SEED

    def __init__(self, *, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed = mix(self._seed, trainer.global_rank, trainer.fit_loop.epoch_loop.total_batch_idx)
        if pl_module.device.type == "cpu":
            # the same generator; torch.manual_seed also formats a stack trace for the CUDA that may come, each time
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)


class BudgetStop(Callback):
    """Ends the fit when the budget is used up; Lightning then validates once more, whatever val_every says.

    It also tells the task, for its schedule, how much is used up. A limit of time is read off the first process's
    clock once a step: with clocks of their own the processes would take different learning rates. A resumed run that
    has used up its budget before takes no step at all.
    """

    order = Order.STOP

    def __init__(self, *, budget: Budget, history: History) -> None:
        self._budget, self._history = budget, history
        self._elapsed = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Task)
        # the middle of the step: a warm-up from zero would waste the first one
        pl_module.progress = lambda step: self._budget.progress(step + 0.5, self._elapsed)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read_clock(trainer, pl_module.device)
        if self._over(trainer):
            ui.note(f"step {trainer.global_step:,} is the end of the budget; a larger one goes on from there")
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._over(trainer):
            trainer.should_stop = True

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        self._read_clock(trainer, pl_module.device)  # before the scheduler takes the rate of the next step

    def _read_clock(self, trainer: pl.Trainer, device: torch.device) -> None:
        if self._budget.seconds is None:
            return
        self._elapsed = self._history.elapsed()
        if trainer.world_size > 1:
            mine = torch.tensor(self._elapsed if trainer.is_global_zero else 0.0, device=device)
            self._elapsed = float(trainer.strategy.reduce(mine, reduce_op="sum"))

    def _over(self, trainer: pl.Trainer) -> bool:
        budget = self._budget
        return (budget.steps is not None and trainer.global_step >= budget.steps) or (
            budget.seconds is not None and self._elapsed >= budget.seconds
        )


class StopSignal(Callback):
    """SIGINT and SIGTERM: finish the optimizer step (and a validation that is due), save, leave with 130 or 143.

    A second signal stops at once, without saving. Reacts after the step in progress, wherever it came.
    """

    order = Order.LEAVE

    def __init__(self, *, checkpoints: Checkpoints, history: History) -> None:
        self._checkpoints, self._history = checkpoints, history
        self._received: int | None = None
        self._previous: dict[int, Any] = {}
        self._step = -1

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = number
        ui.note("stopping after this step …")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # after Lightning has installed its own handlers, which would end with exit code 0 and no checkpoint
        self._step = trainer.global_step
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if stepped and not validation_due(trainer):
            self._leave_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.should_stop:
            self._leave_if_asked(trainer)

    def _leave_if_asked(self, trainer: pl.Trainer) -> None:
        asked = self._received is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            path = self._checkpoints.save_last(trainer)
            self._history.write_status("interrupted")
            run = path.parent.parent
            ui.note(f"saved {path}        go on with: llm train resume={run}")
            raise SystemExit(128 + (self._received or signal.SIGTERM))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
