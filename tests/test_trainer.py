"""Budgets, times and devices of the trainer group: the arithmetic, and the messages where it cannot be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmcli.checkpoint import AtomicCheckpointIO
from llmcli.errors import InputError
from llmcli.trainer import Budget, TrainerSettings, accelerator_of, build_trainer, describe_device, seconds


def settings(**changes: Any) -> TrainerSettings:
    values: dict[str, Any] = {
        "max_steps": None, "max_epochs": None, "max_time": None, "max_tokens": None,
        "accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true", "compile": False,
        "accumulate": 1, "clip_norm": None, "val_every": None, "val_batches": None, "log_every": 1, "default_steps": 5,
    }  # fmt: skip
    return TrainerSettings(**{**values, **changes})


# -- times ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90), ("90", 90), ("10m", 600), ("1h30m", 5400), ("1h 30m", 5400), ("1h, 30m", 5400), ("2d", 172800),
        ("1.5h", 5400), ("10M", 600), (" 5 m ", 300), (90, 90), (0.5, 0.5),
    ],
)  # fmt: skip
def test_times(text, expected):
    assert seconds(text, "trainer.max_time") == expected


@pytest.mark.parametrize("text", ["soon", "10x", "", "m", "-5m", "10m later", "1:30"])
def test_no_time(text):
    with pytest.raises(InputError, match=r"trainer\.max_time") as err:
        seconds(text, "trainer.max_time")
    assert repr(text) in str(err.value) and "1h30m" in err.value.hint


@pytest.mark.parametrize("value", ["0s", 0, -1])
def test_a_time_must_be_more_than_nothing(value):
    with pytest.raises(InputError, match=r"callbacks\.checkpoints.every must be more than nothing"):
        seconds(value, "callbacks.checkpoints.every")


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["max_steps", "max_epochs", "max_tokens", "accumulate", "val_every", "val_batches", "log_every", "default_steps"],
)
def test_counts_are_at_least_one(name):
    with pytest.raises(InputError, match=rf"trainer\.{name} must be at least 1, not 0"):
        settings(**{"max_steps": 5, name: 0})


def test_a_norm_to_clip_to_is_positive():
    with pytest.raises(InputError, match=r"trainer\.clip_norm must be positive, not 0") as err:
        settings(max_steps=5, clip_norm=0.0)
    assert "trainer.clip_norm=null" in err.value.hint


def test_a_run_without_a_budget_takes_the_default():
    assert budget(default_steps=7) == Budget(steps=7, seconds=None)
    assert budget(default_steps=7, max_time="1m") == Budget(steps=None, seconds=60.0)
    assert budget(default_steps=7, max_epochs=2) == Budget(steps=20, seconds=None)


# -- budgets -------------------------------------------------------------------------------------------------------


def budget(*, ranks: int = 1, **changes: Any) -> Budget:
    """Of 10 batches an epoch, 100 tokens each."""
    return Budget.of(settings(**changes), batches_per_epoch=10, tokens_per_batch=100, ranks=ranks)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"max_epochs": 3}, 30),
        ({"max_epochs": 3, "accumulate": 5}, 6),
        ({"max_tokens": 1000}, 10),
        ({"max_tokens": 1001}, 11),
        ({"max_tokens": 1}, 1),
        ({"max_tokens": 1000, "accumulate": 5}, 2),
        ({"max_tokens": 1000, "accumulate": 5, "ranks": 2}, 1),
        ({"max_steps": 7, "max_epochs": 3, "max_tokens": 500}, 5),
        ({"max_time": "1m"}, None),
    ],
)
def test_the_nearest_limit_in_steps(changes, steps):
    assert budget(**changes).steps == steps


def test_progress_follows_whichever_limit_is_nearer():
    steps, clock, both = budget(max_steps=10), budget(max_time="10s"), budget(max_steps=10, max_time="10s")
    assert steps.progress(4, 1e9) == 0.4
    assert clock.progress(10**9, 2.5) == 0.25
    assert both.progress(2, 5.0) == 0.5 and both.progress(6, 5.0) == 0.6
    assert steps.progress(11, 0.0) == 1.0 and clock.progress(0, 99.0) == 1.0


# -- devices -------------------------------------------------------------------------------------------------------


def test_processes_on_the_cpu():
    assert accelerator_of("cpu", 1) == ("cpu", 1)
    assert accelerator_of("cpu", 2) == ("cpu", 2)


@pytest.mark.parametrize(("name", "devices"), [("tpux", "auto"), ("cpu", 0), ("cpu", "many"), ("mps", 1), ("gpu", 64)])
def test_devices_that_are_not_there(name, devices):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has MPS")
    with pytest.raises(InputError) as err:
        accelerator_of(name, devices)
    assert f"trainer.devices={devices}" in str(err.value) and "\n" not in str(err.value)
    if not torch.cuda.is_available():
        assert "CPU threads, 0 CUDA devices" in err.value.hint


def test_a_machine_in_words():
    threads = torch.get_num_threads()
    word = "core" if threads == 1 else "cores"
    assert describe_device("cpu", 1) == f"{threads} CPU {word}"
    assert describe_device("cpu", 2) == f"{threads} CPU {word}, 2 processes"
    assert describe_device("mps", 1) == "1 x MPS"


def test_the_trainer_is_lean_and_saves_atomically(tmp_path: Path):
    complete = settings(max_steps=5, accumulate=3, val_every=2, val_batches=4, clip_norm=0.5)
    trainer = build_trainer(complete, callbacks=[], folder=tmp_path)
    assert trainer.loggers == [] and trainer.checkpoint_callback is None and trainer.progress_bar_callback is None
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    # Lightning counts batches, the config optimizer steps
    assert (trainer.val_check_interval, trainer.limit_val_batches) == (6, 4)
    assert (trainer.accumulate_grad_batches, trainer.gradient_clip_val) == (3, 0.5)
    assert (trainer.max_steps, trainer.max_epochs) == (-1, -1)  # our own callback ends the fit
