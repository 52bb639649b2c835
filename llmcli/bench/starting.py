"""Start-up: seconds from typing a command to what the user waits for, in processes of their own.

By the clock ("wall"), and of the processor ("cpu"): of each process and those that it waited for, as `os.times` counts.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcli.bench.measuring import ClockName, Spread, in_turns
from llmcli.errors import LLMError

# a callback of the user's own that says where its first step begins, and ends the process
_FIRST_STEP = """
import os
import pytorch_lightning as pl


class FirstStep(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        os.write(1, b".")
        os._exit(0)
"""
_SMALL = [
    "tokenizer=char",
    "model=transformer",
    "model.d_model=32",
    "model.n_layers=1",
    "model.n_heads=2",
    "model.ngram_rows=[]",
    "batch.size=4",
    "batch.seq_len=32",
    "trainer.max_steps=1",
    "trainer.accelerator=cpu",
    "callbacks.samples=null",
]


def measure(*, rounds: int) -> dict[ClockName, dict[str, Any]]:
    """Seconds by either clock, in turns: Python alone, `llm --help`, importing torch and Lightning, `llm train` to its
    first step and `llm generate` to its first token, with data prepared and a model so small that it takes no time;
    and these two beyond the imports of the same round."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "first_step.py").write_text(_FIRST_STEP, encoding="utf-8")
        draw = random.Random(1)
        words = ["".join(draw.choices("abcdefghij", k=5)) for _ in range(4000)]
        (folder / "made_up.txt").write_text(" ".join(words) + "\n", encoding="utf-8")
        train = ["-m", "llmcli", "train", "data=text", "data.path=made_up.txt", *_SMALL]
        _spent(folder, *train, "hydra.run.dir=run")  # prepares, and leaves a run
        first_step = [*train, "+callbacks.first_step._target_=first_step.FirstStep", "hydra.run.dir=other"]
        first_token = ["-m", "llmcli", "generate", "ckpt=run", "--prompt", "a"]  # which it repeats, once it has a token
        times = in_turns(
            {
                "python": lambda: _spent(folder, "-c", ""),
                "help": lambda: _spent(folder, "-m", "llmcli", "--help"),
                "imports": lambda: _spent(folder, "-c", "import torch, pytorch_lightning"),
                "first_step": lambda: _spent(folder, *first_step, until_byte=True),
                "first_token": lambda: _spent(folder, *first_token, until_byte=True),
            },
            rounds,
        )
    names: tuple[ClockName, ...] = ("wall", "cpu")
    return {
        clock: _figures({name: [each[place] for each in taken] for name, taken in times.items()})
        for place, clock in enumerate(names)
    }


def _figures(times: Mapping[str, list[float]]) -> dict[str, Any]:
    over = {
        f"{name}_over_imports": [a - b for a, b in zip(times[name], times["imports"], strict=True)]
        for name in ("first_step", "first_token")
    }
    return {f"{name}_seconds": Spread.of(values).plain() for name, values in {**times, **over}.items()}


def _environment(folder: Path) -> dict[str, str]:
    """Its own cache, its own code and `first_step`, and nothing of a run around this process."""
    ours = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([str(folder), ours, *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {name: value for name, value in os.environ.items() if name != "LLM_RUN_DIR"}
    return {**kept, "PYTHONPATH": path, "LLM_CACHE": str(folder / "cache")}


def _spent(folder: Path, *words: str, until_byte: bool = False) -> tuple[float, float]:
    """Seconds by the clock and of the processor that `python WORDS` takes, or takes until it writes to its stdout."""
    before, began = os.times(), time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        if until_byte:
            there = bool(process.stdout.read(1))
            wall = time.perf_counter() - began
            process.kill()
            said = process.communicate()[1]
        else:
            said = process.communicate()[1]
            wall, there = time.perf_counter() - began, process.returncode == 0
    if not there:
        raise LLMError(f"{' '.join(words)[:200]} failed: {said.decode(errors='replace').strip()[-500:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu
