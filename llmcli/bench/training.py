"""A training step: how long the whole of `llm train` takes for it, and where that time goes.

Loops take turns over the same batches and the same model: the fit of `llm train` itself, a plain loop whose parts are
timed one by one, and what the user wants beside them (`llmcli.bench.beside`). What the fit takes beyond the parts is
overhead: Lightning's hooks and our callbacks. Nothing is validated, sampled or saved meanwhile.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import move_data_to_device

from llmcli import assembly
from llmcli.assembly import Parts
from llmcli.bench import ceilings, flops
from llmcli.bench.measuring import Spread, Stopwatch, in_turns
from llmcli.callbacks.steps import StopSignal
from llmcli.memory import Peak
from llmcli.tasks.base import Task
from llmcli.tasks.micro_batches import parts as in_pieces
from llmcli.trainer import Budget, build_trainer

PARTS = ("data", "forward", "backward", "optimizer")
WARM_UP = 3  # steps of each block that are not timed
BLOCK_SECONDS = 2.0  # of a block whose number of steps is not given
FEWEST, MOST = 4, 200  # timed steps of such a block

Loop = Callable[[int], float]  # timed steps -> seconds a step
Beside = Callable[["Fitted"], Mapping[str, Loop]]  # what is measured beside the fit


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the loops share. precision: the context of Lightning's plugin in which it computes a step."""

    parts: Parts
    device: torch.device
    watch: Stopwatch
    precision: Callable[[], AbstractContextManager[Any]]

    @property
    def task(self) -> Task:
        return self.parts.task.to(self.device)  # Lightning leaves it on the CPU after each fit

    def batches(self) -> Iterator[Any]:
        """Training batches on the device, epoch after epoch."""
        while True:
            for batch in self.parts.data.train_dataloader():
                yield batch if self.device.type == "cpu" else move_data_to_device(batch, self.device)

    def pieces(self, batch: Any) -> list[Any]:
        """What goes through the model at a time: `trainer.micro_batch` of it, as the fit does or has found. Only the
        first carries the counts of all."""
        return in_pieces(batch, self.parts.task.rows_at_a_time(batch))


def measure(
    parts: Parts, watch: Stopwatch, *, rounds: int, steps: int | None, beside: Beside | None = None
) -> dict[str, Any]:
    """Figures of training, as plain values; those of several rounds are median, min and max.

    steps: timed ones of a block, None: as many as take BLOCK_SECONDS. beside: further loops to take turns with.
    """
    device = torch.device(parts.device)
    if parts.settings.compile:
        parts.task.compile_inner()
    try:
        peak: Peak | None = Peak(device)
    except OSError:  # only Linux counts it so
        peak = None
    trainer, first = fit(parts, watch, FEWEST)  # compiles, and fills the caches of the allocator
    memory = {} if peak is None else {"peak_memory_bytes": peak.absolute(), "memory_before_bytes": peak.before}
    count = steps or min(MOST, max(FEWEST, math.ceil(BLOCK_SECONDS / first)))
    shared = Fitted(parts, device, watch, trainer.precision_plugin.train_step_context)
    others = {} if beside is None else beside(shared)
    for block in others.values():
        block(1)
    split: list[dict[str, float]] = []
    name = ceilings.OF_PRECISION[parts.precision.precision]

    def in_parts() -> float:
        split.append(split_step(shared, count))
        return sum(split[-1].values())

    sides: dict[str, Callable[[], float]] = {
        "llm": lambda: fit(parts, watch, count)[1],
        "parts": in_parts,
        **{side: partial(block, count) for side, block in others.items()},
        "ceiling": lambda: ceilings.matmul(name, device, watch),
    }
    figures = _figures(parts.tokens_per_step, _operations(shared), in_turns(sides, rounds), split)
    return {**figures, "steps": count, "matmul_dtype": name, **memory}


@torch.no_grad()
def _operations(shared: Fitted) -> float:
    """Of a step: what its tokens cost, of which not every one may be predicted."""
    parts = shared.parts
    pieces = shared.pieces(next(shared.batches()))
    targets = sum(shared.task._step(piece, "train").n for piece in pieces) * parts.settings.accumulate
    tokens, seq_len = parts.tokens_per_step, int(parts.config.batch.seq_len)
    return flops.of_step(parts.task, tokens=tokens, targets=targets, seq_len=seq_len)


def _figures(
    tokens: int, work: float, times: Mapping[str, list[float]], split: list[dict[str, float]]
) -> dict[str, Any]:
    """tokens, work: of a step, the latter in floating-point operations."""
    whole, ceiling = times["llm"], times["ceiling"]
    parted = {name: [each[name] for each in split] for name in PARTS}
    parted["overhead"] = [a - sum(each.values()) for a, each in zip(whole, split, strict=True)]
    beside = [name for name in times if name not in ("llm", "parts", "ceiling")]
    return {
        "tokens_per_step": tokens,
        "flop_per_step": work,
        "tokens_per_second": Spread.of([tokens / each for each in whole]).plain(),
        "model_flop_per_second": Spread.of([work / each for each in whole]).plain(),
        "matmul_flop_per_second": Spread.of(ceiling).plain(),
        "model_flop_utilisation": Spread.of([work / a / b for a, b in zip(whole, ceiling, strict=True)]).plain(),
        "step_seconds": Spread.of(whole).plain(),
        "split_seconds": {name: Spread.of(values).plain() for name, values in parted.items()},
        "beside": {
            name: {
                "tokens_per_second": Spread.of([tokens / each for each in times[name]]).plain(),
                # each round against its own neighbour: what both suffered falls out
                "llm_is_faster_by": Spread.of([b / a for a, b in zip(whole, times[name], strict=True)]).plain(),
            }
            for name in beside
        },
    }


def fit(parts: Parts, watch: Stopwatch, steps: int) -> tuple[pl.Trainer, float]:
    """Seconds a step of the fit of `llm train`, with its callbacks and metrics, and the trainer that made it.

    Ctrl-C ends it at once: there is nothing to save. Raises KeyboardInterrupt.
    """
    parts = replace(parts, budget=Budget(steps=steps + WARM_UP + 1, seconds=None))
    times = _Times(watch, steps, parts.settings.accumulate)
    with tempfile.TemporaryDirectory() as folder:
        _, callbacks, _ = assembly.callbacks(parts, Path(folder))
        callbacks = [each for each in callbacks if not isinstance(each, StopSignal)]
        trainer = build_trainer(parts.settings, callbacks=[times, *callbacks], folder=Path(folder))
        trainer.limit_val_batches = 0  # and so nothing is sampled or saved
        try:
            trainer.fit(parts.task, datamodule=parts.data)
        except SystemExit as stop:
            if stop.code == 1:  # how Lightning leaves after Ctrl-C
                raise KeyboardInterrupt from None
            raise
    return trainer, (times.ended - times.began) / steps


class _Times(pl.Callback):
    """Reads the clock where step WARM_UP begins and where step WARM_UP + `steps` does, and never between them: it
    waits for the device."""

    def __init__(self, watch: Stopwatch, steps: int, accumulate: int) -> None:
        self.began = self.ended = 0.0
        self._watch, self._batches = watch, 0
        self._first, self._last = WARM_UP * accumulate, (WARM_UP + steps) * accumulate

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._batches == self._first:
            self.began = self._watch()
        elif self._batches == self._last:
            self.ended = self._watch()
        self._batches += 1


def split_step(shared: Fitted, steps: int) -> dict[str, float]:
    """Seconds that a step of a plain loop spends on each of PARTS.

    The clock is read after each part, so that on an accelerator nothing overlaps: the parts are what each costs alone.
    """
    task, settings, watch = shared.task.train(), shared.parts.settings, shared.watch
    configured = task.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    weights = [each for each in task.parameters() if each.requires_grad]
    spent = dict.fromkeys(PARTS, 0.0)
    batches = shared.batches()
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            spent = dict.fromkeys(PARTS, 0.0)
        before = watch()
        for _ in range(settings.accumulate):
            batch = next(batches)
            before = _spend(spent, "data", before, watch)
            for piece in shared.pieces(batch):
                with shared.precision():
                    loss = task._step(piece, "train").loss / batch["n_tokens"] / settings.accumulate
                before = _spend(spent, "forward", before, watch)
                loss.backward()
                before = _spend(spent, "backward", before, watch)
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        _spend(spent, "optimizer", before, watch)
    return {name: seconds / steps for name, seconds in spent.items()}


def _spend(spent: dict[str, float], part: str, before: float, watch: Stopwatch) -> float:
    now = watch()
    spent[part] += now - before
    return now
