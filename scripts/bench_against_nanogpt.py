"""Ours beside nanoGPT on the same cores, in turns: python scripts/bench_against_nanogpt.py NANOGPT_FOLDER TEXT [...]

NANOGPT_FOLDER is a checkout of nanoGPT, TEXT the tinyshakespeare file. Two measurements (both by default):

time        whole processes from start to end: nanoGPT's CPU configuration (its README: 2,000 steps of 12 x 64
            characters) and `llm train experiment=shakespeare_char_fast`, with the validation loss that ours reaches
throughput  tokens/s of training steps at 6 layers, 6 heads, 384 wide, context 256, batch 16: nanoGPT as it comes
            (float32, eager) and `llm train experiment=throughput`

Prints a table and, with --json, one JSON object. --rounds repeats both sides in turns and quotes medians.
"""

from __future__ import annotations

import argparse
import array
import csv
import json
import os
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NANO_SHAPE = {
    "time": "--block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 "
    "--lr_decay_iters=2000",
    "throughput": "--block_size=256 --batch_size=16 --n_layer=6 --n_head=6 --n_embd=384 --max_iters=24 "
    "--lr_decay_iters=24",
}
NANO_COMMON = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --dropout=0.0 --gradient_accumulation_steps=1"
)
OUR_STEPS_SKIPPED = 20  # warm-up and compilation


def write_nanogpt_data(text: Path, folder: Path) -> None:
    """train.bin, val.bin and meta.pkl as nanoGPT's own prepare.py writes them (which wants to download the text)."""
    folder.mkdir(parents=True, exist_ok=True)
    content = text.read_text(encoding="utf-8")
    characters = sorted(set(content))
    number = {c: i for i, c in enumerate(characters)}
    cut = int(len(content) * 0.9)
    for name, part in (("train", content[:cut]), ("val", content[cut:])):
        (folder / f"{name}.bin").write_bytes(array.array("H", [number[c] for c in part]).tobytes())
    meta = {"vocab_size": len(characters), "itos": dict(enumerate(characters)), "stoi": number}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def run(command: list[str], cwd: Path, environment: dict[str, str]) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return seconds, done.stdout


def nanogpt(kind: str, folder: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *NANO_COMMON.split()]
    command += [*NANO_SHAPE[kind].split(), f"--out_dir={out}"]
    seconds, output = run(command, folder, dict(os.environ))
    times = [float(ms) for ms in re.findall(r"time ([\d.]+)ms", output)]
    figures = {"seconds": seconds}
    if kind == "throughput":
        figures["tokens_per_second"] = 16 * 256 * 1000 / statistics.median(times[4:])
    losses = re.findall(r"val loss ([\d.]+)", output)
    if losses:
        figures["val_loss"] = float(losses[-1])  # of 20 random batches, its own estimate
    return figures


def ours(kind: str, text: Path, out: Path, extra: list[str]) -> dict[str, float]:
    experiment = "shakespeare_char_fast" if kind == "time" else "throughput"
    command = [sys.executable, "-m", "llmcli", "train", f"experiment={experiment}", f"data.path={text}"]
    command += [f"hydra.run.dir={out}", *extra]
    seconds, _ = run(command, out.parent, dict(os.environ))
    metrics = json.loads((out / "metrics.json").read_text())
    figures = {"seconds": seconds, "val_loss": metrics["val_loss"]}
    if kind == "throughput":
        with (out / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["loss"] and int(row["step"]) > OUR_STEPS_SKIPPED]
        figures["tokens_per_second"] = statistics.median(float(row["tokens_per_second"]) for row in rows)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nanogpt", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("what", nargs="*", choices=["time", "throughput", []], default=["time", "throughput"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], help="an override for our side, e.g. trainer.compile=false"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    text = arguments.text.resolve()
    folder = arguments.nanogpt.resolve()
    write_nanogpt_data(text, folder / "data" / "shakespeare_char")
    result: dict[str, dict[str, list[dict[str, float]]]] = {}
    for kind in arguments.what or ["time", "throughput"]:
        sides: dict[str, list[dict[str, float]]] = {"nanoGPT": [], "llm": []}
        for n in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as scratch:
                sides["nanoGPT"].append(nanogpt(kind, folder, Path(scratch) / "nano"))
                sides["llm"].append(ours(kind, text, Path(scratch) / f"run{n}", arguments.set))
        result[kind] = sides
        figure = "seconds" if kind == "time" else "tokens_per_second"
        medians = {name: statistics.median(row[figure] for row in rows) for name, rows in sides.items()}
        for name, rows in sides.items():
            spread = ", ".join(f"{row[figure]:,.1f}" for row in rows)
            loss = rows[-1].get("val_loss")
            print(f"{kind:<11} {name:<8} {figure} {medians[name]:,.1f} ({spread})  val loss {loss}")
        print(f"{kind:<11} llm/nanoGPT {medians['llm'] / medians['nanoGPT']:.3f}")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
