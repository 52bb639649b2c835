"""What llm costs on top of Python and PyTorch: python scripts/bench_overhead.py [start] [small] [textcnn] ...

start: seconds until `llm --help` has answered, `llm train` begins its first step and `llm generate` shows its first
token, beside importing torch and Lightning alone, all in turns. small (a step of about 1 ms), throughput (6 layers, 384
wide, context 256, batch 16), textcnn and lstm (classifiers as their YAML has them, of the examples that --data names):
time per optimizer step of `llm train` with its metrics, against a plain PyTorch loop over the same batches with the
same model, optimizer, clipping and precision. Both run in one process in turns (A B A B ...), so that a busy machine
slows both; where it is very busy, --clock cpu --threads 1 counts the time of this process alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TARGETS_OF_STARTS = {"help": 0.15, "first_step_over_imports": 1.5, "first_token_over_imports": 1.5}  # seconds
STEP_TARGET = 0.01  # of the step at the throughput shape
COMMON = [
    "trainer.accelerator=cpu",
    "trainer.compile=false",
    "trainer.val_every=1000000",
    "trainer.val_batches=1",
    "callbacks.samples=null",
    "callbacks.checkpoints.every=1d",
]
RUNNING_TEXT = ["data=python_docs", "tokenizer=byte", "model=transformer"]
SHAPES = {
    "small": [
        *RUNNING_TEXT,
        "model.d_model=32",
        "model.n_layers=1",
        "model.n_heads=2",
        "model.ngram_rows=[]",
        "batch.size=4",
        "batch.seq_len=32",
        "optimizer=adamw",
    ],
    "throughput": [
        *RUNNING_TEXT,
        "model.d_model=384",
        "model.n_layers=6",
        "model.n_heads=6",
        "batch.size=16",
        "batch.seq_len=256",
    ],
    "textcnn": ["model=textcnn", "batch.size=50", "optimizer=adam"],
    "lstm": ["model=lstm", "batch.size=50", "optimizer=adam"],
}
CLASSIFIERS = ("textcnn", "lstm")
STEPS = {"small": 300, "throughput": 15, "textcnn": 60, "lstm": 30}  # of a block
TARGETS = {"throughput": STEP_TARGET, **dict.fromkeys(CLASSIFIERS, 0.05)}
WARM_UP = 5  # steps of each block that are not timed
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Clock = Callable[[], float]


# -- steps ---------------------------------------------------------------------------------------------------------


def step_times(shape: str, *, threads: int, rounds: int, steps: int, clock: Clock, data: list[str]) -> dict[str, float]:
    """Milliseconds a step: the median over blocks of the mean step, for the plain loop and for llm train."""
    import torch

    from llmcli import assembly, config
    from llmcli.trainer import quiet_lightning

    torch.set_num_threads(threads)
    quiet_lightning()
    named = data if shape in CLASSIFIERS else []
    cfg = config.capture("train", [*COMMON, *named, *SHAPES[shape], f"trainer.max_steps={steps}"])
    assert cfg is not None
    parts = assembly.build(cfg, config.launch().choices)
    parts.task.progress = lambda step: parts.budget.progress(step, 0.0)
    plain, ours = [], []
    for _ in range(rounds):
        plain.append(plain_block(parts, steps, clock))
        ours.append(our_block(parts, clock))
    bare, llm = statistics.median(plain), statistics.median(ours)
    # each block beside the one just before it: what both suffered falls out
    over = statistics.median(b - a for a, b in zip(plain, ours, strict=True))
    return {"threads": threads, "plain_ms": bare, "llm_ms": llm, "overhead_ms": over, "overhead": over / bare}


def plain_block(parts, steps: int, clock: Clock) -> float:
    """The loop that a careful user would write."""
    import torch
    import torch.nn.functional as F

    task, settings = parts.task, parts.settings
    optimizer = task._optimizer(task)
    bf16 = parts.precision.precision == "bf16-mixed"
    task.train()
    total = 0.0
    began = 0.0
    for number, batch in enumerate(parts.data.train_dataloader()):
        if number == WARM_UP:
            began = clock()
        if number == steps - 1:  # the very batches that are timed below: those of examples differ in length
            break
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * task._schedule(number / steps, number)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            hidden = task.model(batch["ids"], mask=batch.get("mask"))
            if "numbers" in batch:  # examples
                loss = F.cross_entropy(task.head(hidden, batch.get("mask")).float(), batch["labels"])
            else:
                loss = task.head(hidden, batch["labels"]) / batch["n_tokens"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), settings.clip_norm)
        optimizer.step()
        if number % settings.log_every == 0:
            total += loss.item()
    return 1000 * (clock() - began) / (steps - 1 - WARM_UP)


def our_block(parts, clock: Clock) -> float:
    import pytorch_lightning as pl

    from llmcli import assembly
    from llmcli.trainer import build_trainer

    class Times(pl.Callback):
        def __init__(self) -> None:
            self.read: list[float] = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            self.read.append(clock())

    times = Times()
    with tempfile.TemporaryDirectory() as temporary:
        _, callbacks, _ = assembly.callbacks(parts, Path(temporary))
        trainer = build_trainer(parts.settings, callbacks=[times, *callbacks], folder=Path(temporary))
        trainer.fit(parts.task, datamodule=parts.data)
    timed = times.read[WARM_UP:]
    return 1000 * (timed[-1] - timed[0]) / (len(timed) - 1)


# -- report --------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["start", *SHAPES], default=["start", "small"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, help=f"of a block; by default {STEPS}")
    parser.add_argument("--data", nargs="+", default=["data=python_topics"], help="of the classifiers")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("LLM_CACHE", str(Path(tempfile.gettempdir()) / "llm-bench-cache"))
    report: dict[str, object] = {}
    if "start" in given.what:
        from llmcli.bench import starting, tables

        times = starting.measure(rounds=given.rounds)
        report["start"] = times
        print(f"{'start-up, seconds (lowest-highest)':40}{'wall':>20}{'cpu':>20}")
        for (title, wall, _), (_, cpu, _), name in zip(*map(tables.start, times.values()), tables.STARTS, strict=True):
            target = f"   target {TARGETS_OF_STARTS[name]}" if name in TARGETS_OF_STARTS else ""
            print(f"  {title:38}{wall:>20}{cpu:>20}{target}")
    for shape in (each for each in SHAPES if each in given.what):
        how = {"rounds": given.rounds, "steps": given.steps or STEPS[shape], "clock": CLOCKS[given.clock]}
        found = [step_times(shape, threads=n, data=given.data, **how) for n in given.threads]
        report[shape] = found
        target = f"   target {TARGETS[shape]:.0%}" if shape in TARGETS else ""
        print(f"{shape + ' step':18}{'threads':>8}{'plain ms':>12}{'llm ms':>12}{'more ms':>10}{'more':>8}")
        for row in found:
            figures = f"{row['plain_ms']:12.3f}{row['llm_ms']:12.3f}{row['overhead_ms']:10.3f}{row['overhead']:8.1%}"
            print(f"{'':18}{row['threads']:8}{figures}{target}")
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
