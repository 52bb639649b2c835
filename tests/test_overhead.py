"""What a step costs beside the model: the hooks of Lightning and ours, counted, since times depend on the machine."""

from __future__ import annotations

import inspect
import statistics
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from llmcli import assembly, config
from llmcli.callbacks.base import Callback, drop_unused_hooks
from llmcli.data.module import PreparedData
from llmcli.tasks.base import Task
from llmcli.trainer import build_trainer, quiet_lightning


class Calls(pl.Callback):
    """How many Python functions are called from the beginning of a step to that of the next."""

    def __init__(self) -> None:
        self.count = 0
        self.counts: list[int] = []

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        self.count += event == "call"

    def on_train_batch_start(self, *given: Any) -> None:
        sys.setprofile(None)
        self.counts.append(self.count)
        self.count = 0
        sys.setprofile(self._called)

    def on_train_end(self, *given: Any) -> None:
        sys.setprofile(None)


def test_a_step_calls_few_functions(small: list[str], tmp_path: Path) -> None:
    quiet_lightning()
    more = ["optimizer=adamw", "model.n_heads=2", "model.ngram_rows=[]", "trainer.val_every=100"]
    cfg = config.capture("train", [*small, *more])
    assert cfg is not None
    parts = assembly.build(cfg, config.launch().choices)
    _, callbacks, _ = assembly.callbacks(parts, tmp_path)
    calls = Calls()
    trainer = build_trainer(parts.settings, callbacks=[calls, *callbacks], folder=tmp_path)
    before = sys.getprofile()
    try:
        trainer.fit(parts.task, datamodule=parts.data)
    finally:
        sys.setprofile(before)
    assert len(calls.counts) == 12
    # about 735, of which some 400 are of the model; 1,280 in the loop of Lightning as it is
    assert statistics.median(calls.counts[3:]) < 800


class Some(Callback):
    def __init__(self) -> None:
        self.ends = 0

    def on_train_batch_end(self, *given: Any) -> None:
        super().on_train_batch_end(*given)
        self.ends += 1


class Further(Some):
    def on_train_batch_start(self, *given: Any) -> None:
        super().on_train_batch_start(*given)


def test_only_empty_hooks_of_ours_are_dropped() -> None:
    some, further, theirs = Some(), Further(), pl.callbacks.LambdaCallback(on_before_zero_grad=lambda *given: None)
    drop_unused_hooks([some, further, theirs])
    assert some.on_train_batch_start is None and some.on_after_backward is None
    some.on_train_batch_end(None, None, None, None, 0)
    further.on_train_batch_end(None, None, None, None, 0)
    further.on_train_batch_start(None, None, None, 0)
    assert (some.ends, further.ends) == (1, 1)
    assert callable(theirs.on_before_zero_grad) and callable(theirs.on_train_batch_start)
    assert callable(some.on_save_checkpoint) and callable(some.on_train_start)


def test_a_batch_goes_to_another_device_and_stays_on_the_cpu() -> None:
    class Data(PreparedData):
        def eval_loader(self, split: str, stride: int | None = None, size: int | None = None, *, alone: bool = False):
            raise NotImplementedError

    data, batch = Data(), {"ids": torch.zeros(2, 3), "n_tokens": 6}
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["ids"].device.type == "meta" and moved["n_tokens"] == 6 and batch["ids"].device.type == "cpu"


def test_the_signature_that_lightning_reads_is_that_of_the_step() -> None:
    def step(self: Task, batch: Any, batch_idx: int) -> Any: ...

    assert inspect.getfullargspec(Task.training_step).args == inspect.getfullargspec(step).args


class Bare(Task):
    def __init__(self) -> None:
        super().__init__(optimizer=None, schedule=None)
        self.model = nn.Linear(2, 2)
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("counts", torch.zeros(2))

    def _step(self, batch: Any, stage: Any) -> Any: ...

    def metrics(self) -> Any: ...


def test_attributes_are_set_as_those_of_any_module() -> None:
    task = Bare()
    task.tokens_seen = 7
    task.fresh = "new"
    assert (task.tokens_seen, task.fresh) == (7, "new")
    task.saved = torch.zeros(1)  # no longer plain
    task.saved = None
    assert task.saved is None
    with pytest.raises(TypeError):
        task.weight = 3
    task.weight = None
    assert "weight" in task._parameters and not [name for name, _ in task.named_parameters() if name == "weight"]
    task.counts = None
    assert "counts" in task._buffers and task.counts is None
    task.tokens_seen = nn.Linear(1, 1)  # becomes a child, and no longer a number
    assert "tokens_seen" in dict(task.named_children()) and "tokens_seen" not in vars(task)
    with pytest.raises(TypeError):
        task.tokens_seen = 3
    with pytest.raises(TypeError):
        task.model = "another"
