"""The trainer group: budget, precision, devices and validation, turned into a Lightning Trainer."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.profilers import PassThroughProfiler

from llmcli.checkpoint import AtomicCheckpointIO
from llmcli.errors import InputError
from llmcli.heads import CHUNK
from llmcli.mistakes import did_you_mean, nearest
from llmcli.training_loop import shorten

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true"]

_STRATEGIES = ("auto", "ddp", "fsdp", "deepspeed")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(value: str | int | float, key: str) -> float:
    """90, "90s", "10m", "1h30m" -> seconds. Raises InputError naming `key`."""
    if isinstance(value, int | float):
        total = float(value)
    else:
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.lower())
        bare = len(parts) > 1 and not all(unit for _, unit in parts)  # 1h30: minutes or seconds?
        if not parts or bare or re.sub(r"(\d+(?:\.\d+)?)\s*([smhd]?)|[\s,]", "", value.lower()):
            raise InputError(f"{key}: {value!r} is no time", "write 90s, 10m or 1h30m")
        total = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if total <= 0:
        raise InputError(f"{key} must be more than nothing, not {value!r}")
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """How long and on what to train. The first budget used up ends the run; where none is set, `default_steps` is.

    max_time: training time, "90s", "10m", "1h30m". accumulate: micro-batches per optimizer step. clip_norm: gradients
    are scaled down to this norm (None: never). val_every: optimizer steps between validations (None: ten a run).
    val_batches: batches a validation (None: what costs at most a sixth of the training). log_every: steps between rows
    of metrics.csv. precision, compile: "auto" takes the measured choice for this machine. loss_chunk: rows of logits
    over a vocabulary that are made at a time where they are many (None: all). checkpoint_activations: blocks are
    computed again in the backward pass (`llmcli.layers.recompute`). micro_batch: rows of a batch that go through the
    model at a time ("auto": as many as fit; None: all). micro_tokens: no more of them than have so many tokens
    together, with their padding (None: any number). Where memory runs out half as much goes through at a time.
    """

    max_steps: int | None
    max_epochs: int | None
    max_time: str | float | None
    max_tokens: int | None
    default_steps: int
    accelerator: str
    devices: int | str
    strategy: str
    precision: Precision
    compile: bool | Literal["auto"]
    accumulate: int
    clip_norm: float | None
    val_every: int | None
    val_batches: int | None
    log_every: int
    # runs of earlier versions have no such keys
    loss_chunk: int | None = CHUNK
    checkpoint_activations: bool = False
    micro_batch: int | Literal["auto"] | None = None
    micro_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "max_epochs",
            "max_tokens",
            "default_steps",
            "accumulate",
            "val_every",
            "val_batches",
            "log_every",
            "loss_chunk",
            "micro_batch",
            "micro_tokens",
        ):
            value = getattr(self, name)
            if value not in (None, "auto") and value < 1:
                raise InputError(f"trainer.{name} must be at least 1, not {value}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise InputError(
                f"trainer.clip_norm must be positive, not {self.clip_norm}",
                "trainer.clip_norm=null turns it off",
            )


@dataclass(frozen=True, slots=True)
class Budget:
    """When training ends, as optimizer steps and seconds; the measure that schedules follow."""

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, settings: TrainerSettings, *, batches_per_epoch: int, tokens_per_batch: int, ranks: int) -> Budget:
        """Whatever limits are set, in the units that the loop counts. An epoch is a whole number of steps."""
        steps_per_epoch = batches_per_epoch // settings.accumulate
        tokens_per_step = tokens_per_batch * settings.accumulate * ranks
        limits = []
        if settings.max_steps is not None:
            limits.append(settings.max_steps)
        if settings.max_epochs is not None:
            limits.append(settings.max_epochs * steps_per_epoch)
        if settings.max_tokens is not None:
            limits.append(max(1, math.ceil(settings.max_tokens / tokens_per_step)))
        limit = None if settings.max_time is None else seconds(settings.max_time, "trainer.max_time")
        if not limits and limit is None:
            limits.append(settings.default_steps)
        return cls(steps=min(limits) if limits else None, seconds=limit)

    def progress(self, step: float, elapsed: float) -> float:
        """The consumed fraction in [0, 1] of whichever limit is nearer."""
        fractions = [0.0]
        if self.steps is not None:
            fractions.append(step / self.steps)
        if self.seconds is not None:
            fractions.append(elapsed / self.seconds)
        return min(1.0, max(fractions))


def accelerator_of(
    name: str, devices: int | str, *, strategy: str = "auto", key: str = "trainer.accelerator"
) -> tuple[str, int]:
    """Lightning's own pick: ("cpu" | "cuda" | "mps" ..., number of devices).

    Raises InputError, naming `key`, for an accelerator or strategy that does not exist and when there are not as many
    devices as asked for. Processes on the CPU count as devices, for which there must be cores; two always run, so that
    a distributed run can be tried on any machine.
    """
    asked = f"{key}={name}" + (f" trainer.devices={devices}" if key.startswith("trainer.") else "")
    hint = f"this machine has {_inventory()}; {key}=auto takes what is there"
    known = ("auto", "gpu", *pl.accelerators.AcceleratorRegistry.available_accelerators())
    if name not in known:
        raise InputError(f"{asked}: there is no accelerator {name!r}, only {', '.join(known)}", hint)
    if isinstance(devices, int) and devices < 1 and devices != -1:
        raise InputError(f"{asked}: at least 1 device is needed", hint)
    strategies = ("auto", *pl.strategies.StrategyRegistry.available_strategies())
    if strategy not in strategies:
        meant = did_you_mean(nearest(strategy, strategies))
        some = f"among others: {', '.join(_STRATEGIES)}"
        raise InputError(f"trainer.strategy: there is no {strategy!r}.{meant}", some)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe = pl.Trainer(
                accelerator=name,
                devices=devices,
                strategy=strategy,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as err:
        raise InputError(f"{asked}: this machine does not have that", hint) from err
    kind = probe.strategy.root_device.type
    there = {"cpu": max(2, os.cpu_count() or 1), "cuda": torch.cuda.device_count()}
    if probe.num_devices > there.get(kind, math.inf):
        raise InputError(f"{asked}: {probe.num_devices} are more than there are", hint)
    return kind, int(probe.num_devices)


def _inventory() -> str:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = " and Apple's MPS" if torch.backends.mps.is_available() else ""
    threads = os.cpu_count() or 1
    return f"{threads} CPU thread{'' if threads == 1 else 's'}, {gpus} CUDA device{'' if gpus == 1 else 's'}{mps}"


class _NoProfiler(PassThroughProfiler):
    """Lightning's own, which measures nothing either, makes a generator for each of the hundred hooks of a step."""

    _NOTHING = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]  # not the name
        return self._NOTHING


def build_trainer(settings: TrainerSettings, *, callbacks: Sequence[pl.Callback], folder: Path) -> pl.Trainer:
    """A lean Lightning Trainer: no banners, no default logger, bar or checkpoint writer; ours are callbacks.

    `settings` must be complete: precision, val_every and val_batches decided.
    """
    assert settings.val_every is not None and settings.val_batches is not None
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=settings.strategy,
        precision=settings.precision,  # type: ignore[arg-type]  # "auto" has been decided
        max_epochs=-1,
        max_steps=-1,  # BudgetStop ends the fit, so that the last step is followed by a validation
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip_norm,
        val_check_interval=settings.val_every * settings.accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=settings.val_batches,
        num_sanity_val_steps=0,
        log_every_n_steps=10**9,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        profiler=_NoProfiler(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(folder),
    )
    shorten(trainer)
    return trainer


def quiet_lightning() -> None:
    """Lightning's banners, tips and warnings that a user of llm cannot act on."""
    import logging

    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for pattern in (
        r".*does not have many workers.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*`max_epochs` was not set.*",
        r".*smaller than the logging interval.*",
        r".*available but not used.*",
        r".*is not iterable.*length.*",
        r".*`parameters` is an empty generator.*",
        r".*configure_optimizers` returned `None`.*",
        r".*training_step` returned `None`.*",
        r".*lr_scheduler\.step\(\).*optimizer\.step\(\).*",
        r".*recommended to use `self\.log\(.*sync_dist=True.*",  # the figures are of all processes already
    ):
        warnings.filterwarnings("ignore", message=pattern)


def describe_device(kind: str, count: int) -> str:
    """ "2 CPU cores", "1 x NVIDIA H100"."""
    if kind == "cuda":
        return f"{count} x {torch.cuda.get_device_name(0)}"
    if kind == "cpu":
        threads = torch.get_num_threads()
        return f"{threads} CPU core{'' if threads == 1 else 's'}" + (f", {count} processes" if count > 1 else "")
    return f"{count} x {kind.upper()}"
