"""What each choice of the language model's defaults is worth: the tables of docs/ablations.md.

    python scripts/ablations.py shakespeare runs/ablations 1,2 data.path=FOLDER
    python scripts/ablations.py wikitext2 runs/ablations 1,2 data.path=FOLDER
    python scripts/ablations.py 88s runs/ablations 1,2,3 data.path=FOLDER

A table is a base and rows of options over it, each trained from every seed with `llm train`; what is done already with
the very same options is found again in the folder, and a row whose options have changed is trained anew. Printed as
rows end: the validation loss in nats per token, the median over seeds and in brackets the lowest and highest, the
difference to the first row's median, processor seconds of the whole process. All rows of a table see the same number of
tokens. Those of `88s` are scored on the end of the training text, so that the validation split has no part in the
choice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

# One validation, of the whole split, at the end; nothing else that takes time.
_PLAIN = "trainer.compile=false trainer.val_every=1000000 trainer.val_batches=1000000 callbacks.samples=null"
_SAME_TOKENS = {
    "the defaults": "",
    "AdamW instead of Muon": "optimizer=adamw",
    "`schedule=linear`": "schedule=linear{no_decay}",
    "`schedule=cosine`": "schedule=cosine{no_decay}",
    "`wsd`, decay over the last 30 %": "schedule.decay=0.3",
    "`wsd`, decay over the last 95 %": "schedule.decay=0.95",
    "weight decay {other}": "optimizer.weight_decay={other}",
    "no logit cap": "model.logit_softcap=null",
    "tied head": "model.tie_embeddings=true",
    "no n-gram tables": "model.ngram_rows=[]",
    "average of the weights": "callbacks=ema callbacks.samples=null callbacks.ema.decay=0.95",
    "half the batch, twice the steps": "batch.size={half} trainer.max_steps={twice}",
    "half the context, twice the batch": "batch.seq_len={short} batch.size={double}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """base: options of every row. rows: name -> further options. numbers: what stands for {name} in both."""

    base: str
    rows: dict[str, str]
    numbers: dict[str, int | str] = field(default_factory=dict)

    def options(self, row: str) -> list[str]:
        return shlex.split(f"{self.base} {_PLAIN} {self.rows[row].format(**self.numbers)}")


TABLES = {
    "shakespeare": Table(
        base="experiment=shakespeare_char_cpu trainer.max_steps=300",
        rows={
            **_SAME_TOKENS,
            "pairs only": "model.ngram_rows=[6724]",
            "tables up to the third order": "model.ngram_rows=[6724,16384]",
            "tables up to the fifth order": "model.ngram_rows=[6724,16384,16384,16384]",
        },
        # the experiment names a key of its schedule, which others have not
        numbers={"half": 6, "twice": 600, "short": 32, "double": 24, "no_decay": " ~schedule.decay", "other": 0.1},
    ),
    "wikitext2": Table(
        base="data=wikitext2 tokenizer=bpe tokenizer.vocab_size=4096 model.d_model=128 model.n_layers=2 "
        "model.n_heads=2 batch.seq_len=128 batch.size=8 trainer.max_steps=300",
        rows={
            **_SAME_TOKENS,
            "pairs and triples": "model.ngram_rows=[16384,16384]",
            "pairs in 65,536 rows": "model.ngram_rows=[65536]",
        },
        numbers={"half": 4, "twice": 600, "short": 64, "double": 16, "no_decay": "", "other": 0},
    ),
    "88s": Table(
        base="experiment=shakespeare_char_88s data.val_fraction=0.045 data.test_fraction=0.1 "
        "trainer.max_time=null trainer.max_steps=640",
        rows={
            "`experiment=shakespeare_char_88s`": "",
            "decay over the last 70 %": "schedule.decay=0.7",
            "that, and no weight decay": "schedule.decay=0.7 optimizer.weight_decay=0",
            "that, clipped": "schedule.decay=0.7 optimizer.weight_decay=0 trainer.clip_norm=1",
            "weight decay 0.3": "optimizer.weight_decay=0.3",
            "context 128, batch 16": "batch.seq_len=128 batch.size=16",
            "context 512, batch 4": "batch.seq_len=512 batch.size=4",
            "matrices 0.03": "optimizer.lr=0.03",
            "pairs only": "model.ngram_rows=[6724]",
            "tables up to the third order": "model.ngram_rows=[6724,16384]",
            "tables up to the fifth order": "model.ngram_rows=[6724,16384,16384,16384]",
            "dropout 0.1": "model.dropout=0.1",
        },
    ),
}


def processor_seconds() -> float:
    """What all finished processes that this one started have taken."""
    times = os.times()
    return times.children_user + times.children_system


def trained(options: list[str], row: Path) -> dict[str, Any]:
    """metrics.json of a run with these options, and the processor seconds that it took.

    row: holds a folder for each list of options that the row has had.
    """
    folder = row / hashlib.sha256(json.dumps(options).encode()).hexdigest()[:12]
    result = folder / "row.json"
    if not result.exists():
        before = processor_seconds()
        command = [sys.executable, "-m", "llmcli", "train", *options, f"hydra.run.dir={folder}", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{shlex.join(command)}\n{done.stderr}")
        told = {**json.loads(done.stdout), "processor": processor_seconds() - before}
        result.write_text(json.dumps(told), encoding="utf-8")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def seeds_of(text: str) -> list[int]:
    return [int(seed) for seed in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("folder", type=Path, help="where the runs are kept")
    parser.add_argument("seeds", type=seeds_of, help="1,2,3")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="of every row: data.path=FOLDER")
    asked = parser.parse_args()
    table, first = TABLES[asked.table], 0.0
    print("| row | loss | beside the first | steps | processor seconds |\n|---|---|---|---|---|", flush=True)
    for row in table.rows:
        place = asked.folder / asked.table / "".join(each if each.isalnum() else "-" for each in row).strip("-")
        runs = [trained([*table.options(row), f"seed={seed}", *asked.options], place) for seed in asked.seeds]
        losses = [run["val_loss"] for run in runs]
        loss = median(losses)
        first = first or loss
        steps, processor = (median(run[key] for run in runs) for key in ("steps", "processor"))
        spread = f" ({min(losses):.3f} to {max(losses):.3f})" if len(losses) > 1 else ""
        said = row.format(**table.numbers)
        print(f"| {said} | {loss:.3f}{spread} | {loss - first:+.3f} | {steps:,.0f} | {processor:.0f} |", flush=True)


if __name__ == "__main__":
    main()
