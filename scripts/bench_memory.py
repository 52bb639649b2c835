"""Peak memory of a whole training step: python scripts/bench_memory.py [bf16-mixed] [32-true] [--compile] ...

The shape: vocabulary 50,257, context 1,024, batch 8, 6 layers, 384 wide. Each row is a process of its own: the model
and the optimizer of the shipped YAML, one small step that makes the optimizer's state, then one whole step (forward,
backward, clipping, optimizer), whose highest use of memory is read from the system. What importing torch takes is not
part of it. `--loss plain` makes all logits at once and hands them to torch's cross-entropy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

SHAPE = {
    "vocab_size": 50_257,
    "seq_len": 1_024,
    "batch": 8,
    "d_model": 384,
    "n_layers": 6,
    "n_heads": 6,
}
LOSSES = ("plain", "chunked")


def peak_of_step(
    *,
    loss: str,
    precision: str,
    model: str = "transformer",
    optimizer: str = "muon",
    checkpoint_activations: bool = False,
    compiled: bool = False,
    device: str = "cpu",
    threads: int = 1,
    shape: dict[str, int] = SHAPE,
) -> dict[str, Any]:
    """Measure in this process, which must be a fresh one: bytes at the peak, beside those of weights and of torch.

    loss: "plain" or "chunked". Returns peak (without what the process had before the model was made), seconds of this
    process's time for the step, the loss, and what was asked for.
    """
    import torch

    from llmcli import config as configs
    from llmcli.layers.recompute import recompute_blocks
    from llmcli.memory import Peak
    from llmcli.tasks.language_modeling import LanguageModeling

    torch.set_num_threads(threads)
    where = torch.device(device)
    whole = Peak(where)
    cfg = configs.compose(
        "train",
        [
            f"model={model}",
            f"optimizer={optimizer}",
            f"facts.vocab_size={shape['vocab_size']}",
            f"batch.seq_len={shape['seq_len']}",
            *(f"model.{name}={shape[name]}" for name in ("d_model", "n_layers", "n_heads")),
        ],
    )
    torch.manual_seed(0)
    built = configs.build(cfg.task)(model=configs.build(cfg.model), optimizer=None, schedule=None)
    assert isinstance(built, LanguageModeling)
    task = built.to(where)
    task.head.chunk = None if loss == "plain" else task.head.chunk
    if checkpoint_activations:
        recompute_blocks(task)
    if compiled:
        task.compile_inner()
    rule = configs.build(cfg.optimizer)(task)
    mixed = precision == "bf16-mixed"
    autocast = torch.autocast(where.type, dtype=torch.bfloat16, enabled=mixed, cache_enabled=False)  # as Lightning's

    def step(rows: int, length: int) -> float:
        ids = torch.randint(shape["vocab_size"], (rows, length + 1), device=where)
        rule.zero_grad()
        with autocast:
            hidden = task.model(ids[:, :-1])
            value = task.head(hidden, ids[:, 1:]) / (rows * length)
            del hidden
        value.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        rule.step()
        return float(value.detach())

    if compiled:  # compile for the shape that is measured
        step(shape["batch"], shape["seq_len"])
    else:
        step(1, 64)
    rule.zero_grad()
    inside = Peak(where)
    began = time.process_time()
    value = step(shape["batch"], shape["seq_len"])
    return {
        "loss": loss,
        "precision": precision,
        "model": model,
        "checkpoint_activations": checkpoint_activations,
        "compile": compiled,
        "device": torch.cuda.get_device_name() if where.type == "cuda" else f"cpu, {threads} threads",
        "peak": inside.absolute() - whole.before,
        "step_alone": inside.grown(),
        "process_seconds": round(time.process_time() - began, 2),
        "value": value,
    }


def measure(**asked: Any) -> dict[str, Any]:
    """`peak_of_step` in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precisions", nargs="*", default=["bf16-mixed"], help="bf16-mixed, 32-true")
    parser.add_argument("--model", default="transformer", help="transformer, gpt2, ...")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpoint", action="store_true", help="also a row with trainer.checkpoint_activations=true")
    parser.add_argument("--loss", choices=LOSSES, help="only this one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        sys.stdout.write(json.dumps(peak_of_step(**json.loads(args.one))) + "\n")
        return
    rows = []
    for precision in args.precisions:
        common = {"precision": precision, "model": args.model, "compiled": args.compile}
        common |= {"device": args.device, "threads": args.threads}
        found = [measure(loss=loss, **common) for loss in ([args.loss] if args.loss else LOSSES)]
        if args.checkpoint:
            found.append(measure(loss="chunked", checkpoint_activations=True, **common))
        for row in found:
            row["of_plain"] = round(row["peak"] / found[0]["peak"], 3)
            if not args.json:
                recomputed = ", blocks recomputed" if row["checkpoint_activations"] else ""
                sys.stdout.write(
                    f"{precision:10}  {row['loss'] + recomputed:28}  {row['peak'] / 2**20:8,.0f} MiB  "
                    f"{row['of_plain']:6.1%}  {row['process_seconds']:6.1f} s  loss {row['value']:.5f}\n"
                )
                sys.stdout.flush()
        rows += found
    if args.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
