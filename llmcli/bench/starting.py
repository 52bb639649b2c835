"""Start-up: seconds from typing a command to what the user waits for, in processes of their own."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmcli.bench.measuring import Spread, in_turns
from llmcli.errors import LLMError

# a callback of the user's own that ends the process where its first step begins
_FIRST_STEP = """
import os
import sys
import time
import pytorch_lightning as pl


class FirstStep(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        sys.stdout.write(repr(time.time()))
        sys.stdout.flush()
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


def measure(*, rounds: int) -> dict[str, Any]:
    """Seconds by the clock, in turns: Python alone, `llm --help`, importing torch and Lightning, `llm train` to its
    first step and `llm generate` to its first token, with data prepared and a model so small that it takes no time."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "first_step.py").write_text(_FIRST_STEP, encoding="utf-8")
        draw = random.Random(1)
        words = ["".join(draw.choices("abcdefghij", k=5)) for _ in range(4000)]
        (folder / "made_up.txt").write_text(" ".join(words) + "\n", encoding="utf-8")
        small = ["data=text", "data.path=made_up.txt", *_SMALL]
        _whole(folder, "-m", "llmcli", "train", *small, "hydra.run.dir=run")  # prepares, and leaves a run
        stop = "+callbacks.first_step._target_=first_step.FirstStep"
        times = in_turns(
            {
                "python": lambda: _whole(folder, "-c", ""),
                "help": lambda: _whole(folder, "-m", "llmcli", "--help"),
                "imports": lambda: _whole(folder, "-c", "import torch, pytorch_lightning"),
                "first_step": lambda: _until_said(folder, "train", *small, stop, "hydra.run.dir=other"),
                "first_token": lambda: _until_byte(folder, "generate", "ckpt=run", "--prompt", "a"),
            },
            rounds,
        )
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


def _whole(folder: Path, *words: str) -> float:
    began = time.time()
    _run(folder, words)
    return time.time() - began


def _until_said(folder: Path, *words: str) -> float:
    """Until the moment that the process writes to its stdout."""
    began = time.time()
    return float(_run(folder, ("-m", "llmcli", *words))) - began


def _until_byte(folder: Path, *words: str) -> float:
    """Until the process has written anything; `llm generate` begins with its prompt, once it has a token."""
    began = time.time()
    command = [sys.executable, "-m", "llmcli", *words]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        there = process.stdout.read(1)
        seconds = time.time() - began
        process.kill()
        if not there:
            raise _failed(words, process.stderr.read().decode(errors="replace"))
    return seconds


def _run(folder: Path, words: Sequence[str]) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise _failed(words, done.stderr)
    return done.stdout


def _failed(words: Sequence[str], said: str) -> LLMError:
    return LLMError(f"{' '.join(words)[:200]} failed: {said.strip()[-500:]}")
