"""What pre-training is worth with few labels: train rows of options on several seeds, score them, print a table.

    python scripts/few_labels.py runs/few 1,2,3 "from scratch: experiment=sst2_500_encoder model=bert" \\
        "fine-tuned: experiment=sst2_500_encoder init=runs/bert"

A row is a name, a colon and options of `llm train`. A seed chooses the labels, the weights and the order. The weights
that are scored on test were best on validation; the linear model beside them learns from the same labels. What is done
already is found again in the folder.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any


def llm(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "llmcli", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"llm {shlex.join(arguments)}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def scored(folder: Path, options: list[str], seed: int) -> dict[str, Any]:
    result = folder / "test.json"
    if not result.exists():
        figures = llm("train", *options, f"seed={seed}", f"data.seed={seed}", f"hydra.run.dir={folder}")
        test = llm("eval", f"ckpt={folder}", "split=test", "out=none")
        keep = {"val": figures["val_accuracy"], "test": test["accuracy"], "floor": test["floor_accuracy"]}
        keep["seconds"] = figures["seconds"]
        result.write_text(json.dumps(keep), encoding="utf-8")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def main() -> None:
    root, seeds, *rows = sys.argv[1:]
    print("| run | val accuracy | test accuracy | TF-IDF, linear SVM | seconds |\n|---|---|---|---|---|", flush=True)
    for row in rows:
        name, _, options = row.partition(": ")
        folder = Path(root) / "".join(each if each.isalnum() else "-" for each in name)
        runs = [scored(folder / seed, shlex.split(options), int(seed)) for seed in seeds.split(",")]
        val, test = ([100 * run[split] for run in runs] for split in ("val", "test"))
        spread = f" ± {stdev(test):.1f}" if len(test) > 1 else ""
        floor, seconds = (mean(run[key] for run in runs) for key in ("floor", "seconds"))
        print(
            f"| {name} | {mean(val):.1f} | {mean(test):.1f}{spread} | {100 * floor:.1f} | {seconds:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
