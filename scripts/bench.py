"""The rows of the speed table, each by its name: python scripts/bench.py ROW [--rounds N] [--json FILE] [KEY=VALUE ...]

throughput      tokens/s at 6 layers, 384 wide, context 256, batch 16 (`experiment=throughput`), beside nanoGPT's model
                of that shape in a loop like its own (--nanogpt DIR), a bare PyTorch loop and transformers, and the
                share of the machine's matrix products
gpt2            the same for the shape of GPT-2 124M, context 1,024, with --batch rows: for a GPU
tinyshakespeare seconds from typing `llm train experiment=shakespeare_char_fast` to the validation loss of the whole
                split, imports included, no code compiled before, beside nanoGPT's CPU configuration (--text FILE)
budget          that loss after `trainer.max_time` (--budget 88s) of --experiment
decode          tokens/s of the shape of SmolLM2-135M at batch 1 and 8 in bfloat16 beside transformers, and with int8
                and int4 weights beside llama.cpp (--llamacpp PYTHON GGUF: an interpreter with llama-cpp-python)
memory          peak memory of a training step at vocabulary 50,257, with our loss and with all logits at once
overhead        milliseconds that Lightning and our callbacks add to a step of about 1 ms (`bench_overhead.py`)
start           seconds to the first step and the first token, beside importing torch and Lightning

Sides take turns (A B A B) and each figure is the median of --rounds, with the lowest and the highest. On a machine that
does other work, --clock cpu --threads 1 counts the processor time of each side alone. KEY=VALUE are overrides of the
model that is measured. On a machine with a GPU the same rows run there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SMOLLM2 = [
    "model=transformer", "model.d_model=576", "model.n_layers=30", "model.n_heads=9", "model.n_kv_heads=3",
    "model.d_ff=1536", "model.activation=swiglu", "model.qk_norm=false", "model.ngram_rows=[]",
    "model.tie_embeddings=true", "model.logit_softcap=null", "model.rope_theta=100000",
]  # fmt: skip
GPT2 = [
    "model=transformer", "model.d_model=768", "model.n_layers=12", "model.n_heads=12", "model.ngram_rows=[]",
    "model.tie_embeddings=true", "batch.seq_len=1024", "optimizer=adamw", "trainer.compile=true",
]  # fmt: skip
SHAPES = {  # of what is decoded: overrides, vocabulary
    "smollm2": ([*SMOLLM2, "batch.seq_len=512"], 49_152),
    "gpt2": (GPT2, 50_304),
}
PRECISIONS = ["bf16", "int8", "int4"]
PROMPT, NEW = 32, 64
Rows = Iterator[tuple[str, str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of a block; by default what takes two seconds")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int, help="by default torch's")
    parser.add_argument("--device", help="cpu or cuda; by default what llm train would take")
    parser.add_argument("--batch", type=int, default=32, help="rows of gpt2's steps")
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, metavar="FILE", help="the tinyshakespeare text")
    parser.add_argument("--experiment", default=None)
    parser.add_argument("--budget", default="88s")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2", help="of decode")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8], help="of decode")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="of decode")
    parser.add_argument("--llamacpp", nargs=2, metavar=("PYTHON", "GGUF"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_intermixed_args()
    os.environ.setdefault("LLM_CACHE", str(Path(tempfile.gettempdir()) / "llm-bench-cache"))
    if given.threads:
        os.environ["OMP_NUM_THREADS"] = str(given.threads)

    import torch

    from llmcli import ui
    from llmcli.bench import machine
    from llmcli.trainer import quiet_lightning

    if given.threads:
        torch.set_num_threads(given.threads)
    quiet_lightning()
    about = {"row": given.row, "command": sys.argv, "rounds": given.rounds, "clock": given.clock, **machine.describe()}
    found, rows = ROWS[given.row](given)
    named = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    on = about["machine"]
    ui.out(f"{on['accelerator'] or on['processor']}, {on['threads']} threads, load {on['load_average']:.1f}; {named}")
    ui.table(list(rows), (given.row, "median (min-max)", ""), right=(1,), stdout=True)
    if given.json:
        given.json.write_text(json.dumps({**about, "found": found}, indent=1) + "\n", encoding="utf-8")


# -- training ------------------------------------------------------------------------------------------------------


def throughput(given: argparse.Namespace) -> tuple[Any, Rows]:
    return _train(given, [f"experiment={given.experiment or 'throughput'}"], vocab_size=81)


def gpt2(given: argparse.Namespace) -> tuple[Any, Rows]:
    return _train(given, [*GPT2, f"batch.size={given.batch}"], vocab_size=50_304)


def _train(given: argparse.Namespace, overrides: list[str], *, vocab_size: int) -> tuple[Any, Rows]:
    import torch

    from llmcli import config
    from llmcli.bench import beside, measuring, synthetic, tables, training

    with tempfile.TemporaryDirectory() as folder:
        cfg = config.capture("train", [*overrides, *_on(given), *given.overrides])
        assert cfg is not None
        parts = synthetic.parts(cfg, config.launch().choices, Path(folder), vocab_size=vocab_size)
        watch = measuring.Stopwatch(given.clock, torch.device(parts.device))

        def others(shared: training.Fitted) -> Mapping[str, training.Loop]:
            found = dict(beside.blocks(shared, ["bare", "transformers"]))
            if given.nanogpt:
                found["nanoGPT"] = of_nanogpt(shared, given.nanogpt)
            return found

        found = training.measure(parts, watch, rounds=given.rounds, steps=given.steps, beside=others)
    return found, tables.train(found)


def of_nanogpt(shared: Any, folder: Path) -> Callable[[int], float]:
    """nanoGPT's model and loss in the same loop, as its train.py has them: float32 and eager on a CPU (its README),
    bfloat16 and compiled on a GPU."""
    import torch

    from llmcli.bench import beside

    sys.path.insert(0, str(folder.resolve()))
    from model import GPT, GPTConfig

    ours = shared.parts.task.model
    model: Any = GPT(
        GPTConfig(
            block_size=ours.max_seq_len,
            vocab_size=ours.vocab_size,
            n_layer=len(ours.blocks),
            n_head=ours.d_model // ours.head_size,
            n_embd=ours.d_model,
            dropout=0.0,
            bias=False,
        )
    ).to(shared.device)
    on_gpu = shared.device.type == "cuda"
    if on_gpu:
        model = torch.compile(model)
    return beside.of_module(shared, model, lambda batch: model(batch["ids"], batch["labels"])[1], autocast=on_gpu)


def tinyshakespeare(given: argparse.Namespace) -> tuple[Any, Rows]:
    import bench_against_nanogpt as against

    text = _text(given)
    sides: dict[str, list[dict[str, float]]] = {"llm": []}
    if given.nanogpt:
        against.write_nanogpt_data(text, given.nanogpt / "data" / "shakespeare_char")
        sides["nanoGPT"] = []
    for _ in range(given.rounds):
        for name, figures in sides.items():
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                if name == "llm":
                    figures.append(_process(given.experiment or "shakespeare_char_fast", text, folder, given.overrides))
                else:
                    figures.append(against.nanogpt("time", given.nanogpt.resolve(), folder / "nano"))
    return sides, _processes(sides)


def budget(given: argparse.Namespace) -> tuple[Any, Rows]:
    text, name = _text(given), given.experiment or "shakespeare_char_88s"
    found = []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            limit = [f"trainer.max_time={given.budget}", "trainer.max_steps=null"]
            found.append(_process(name, text, Path(scratch), [*limit, *given.overrides]))
    sides = {f"llm, {given.budget} of training": found}
    return sides, _processes(sides)


def _process(experiment: str, text: Path, folder: Path, overrides: list[str]) -> dict[str, float]:
    """A whole `llm train` with nothing in any cache: seconds, and the loss over the whole validation split."""
    import time

    cold = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "LLM_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "llmcli", "train", f"experiment={experiment}", f"data.path={text}"]
    command += [f"hydra.run.dir={folder / 'run'}", *overrides]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=cold, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return {"seconds": seconds, "val_loss": json.loads((folder / "run" / "metrics.json").read_text())["val_loss"]}


def _processes(sides: Mapping[str, list[dict[str, float]]]) -> Rows:
    for name, figures in sides.items():
        losses = ", ".join(f"{each['val_loss']:.4f}" for each in figures)
        yield f"{name}, s", _spread([each["seconds"] for each in figures]).show("{:.1f}"), f"val loss {losses}"


def _text(given: argparse.Namespace) -> Path:
    if given.text is None:
        sys.exit("--text FILE: the tinyshakespeare text")
    return given.text.resolve()


# -- decoding ------------------------------------------------------------------------------------------------------


def decode(given: argparse.Namespace) -> tuple[Any, Rows]:
    import torch

    from llmcli import config, loading
    from llmcli.bench import beside, generation, measuring

    overrides, vocab_size = SHAPES[given.shape]
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    watch = measuring.Stopwatch(given.clock, device)
    strategy = config.build(config.compose("train", ["decoding=greedy"]).decoding)
    how: dict[str, Any] = {"prompt": PROMPT, "new": NEW, "rounds": given.rounds}
    found = {}
    for precision in given.precisions:
        task = _random([*overrides, *given.overrides], vocab_size)
        reference = beside.llama(task.model) if precision == "bf16" else None
        loading.prepare(task, precision, device)
        others: dict[str, Any] = {}
        if reference is not None:
            others["transformers"] = beside.generating(reference.to(device, torch.bfloat16), watch)
        sizes = given.batch_sizes
        if precision == "int4" and given.llamacpp:
            others["llama.cpp"], sizes = LlamaCpp(*given.llamacpp, clock=given.clock).write, [1]
        found[precision] = generation.measure(task, strategy, watch, batch_sizes=sizes, beside=others, **how)
    return found, _decoded(found)


class LlamaCpp:
    """A process of another interpreter that writes when it is told (`bench_llamacpp.py`), on as many threads as ours.

    Its ids are its own: what counts is how many.
    """

    def __init__(self, python: str, gguf: str, *, clock: str) -> None:
        import torch

        words = [
            python,
            str(HERE / "bench_llamacpp.py"),
            gguf,
            str(PROMPT),
            str(NEW),
            str(torch.get_num_threads()),
            clock,
        ]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def write(self, ids: Any, new: int) -> list[float]:
        """Seconds to each new token."""
        assert ids.shape == (1, PROMPT) and new == NEW
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _random(overrides: list[str], vocab_size: int) -> Any:
    """A language model of random weights, in eval mode."""
    import torch

    from llmcli import config

    cfg = config.compose("train", [*overrides, f"facts.vocab_size={vocab_size}"])
    torch.manual_seed(0)
    return config.build(cfg.task)(model=config.build(cfg.model), optimizer=None, schedule=None).eval()


def _decoded(found: Mapping[str, Any]) -> Rows:
    from llmcli.bench import tables

    for precision, figures in found.items():
        for name, value, remark in tables.generate(figures):
            yield f"{precision}: {name}", value, remark


# -- the rest ------------------------------------------------------------------------------------------------------


def memory(given: argparse.Namespace) -> tuple[Any, Rows]:
    import bench_memory
    import torch

    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    sides: dict[str, list[dict[str, Any]]] = {loss: [] for loss in bench_memory.LOSSES}
    for _ in range(given.rounds):
        for loss, figures in sides.items():
            threads = torch.get_num_threads()
            figures.append(bench_memory.measure(loss=loss, precision="bf16-mixed", device=device, threads=threads))
    plain = statistics.median(each["peak"] for each in sides["plain"])

    def rows() -> Rows:
        for loss, figures in sides.items():
            peak = _spread([each["peak"] for each in figures])
            yield f"{loss}, MiB", peak.show(scale=2**-20), f"{peak.median / plain:.1%} of plain"

    return sides, rows()


def overhead(given: argparse.Namespace) -> tuple[Any, Rows]:
    import bench_overhead
    import torch

    found = bench_overhead.step_times(
        "small",
        threads=torch.get_num_threads(),
        rounds=given.rounds,
        steps=given.steps or bench_overhead.STEPS["small"],
        clock=bench_overhead.CLOCKS[given.clock],
        data=[],
    )
    return found, ((name, f"{value:,.3f}", "") for name, value in found.items())


def start(given: argparse.Namespace) -> tuple[Any, Rows]:
    from llmcli.bench import starting, tables

    found = starting.measure(rounds=given.rounds)[given.clock]
    return found, tables.start(found)


def _on(given: argparse.Namespace) -> list[str]:
    return [] if given.device is None else [f"trainer.accelerator={given.device}"]


def _spread(values: list[float]) -> Any:
    from llmcli.bench.measuring import Spread

    return Spread.of(values)


ROWS: Mapping[str, Callable[[argparse.Namespace], tuple[Any, Rows]]] = {
    each.__name__: each for each in (throughput, gpt2, tinyshakespeare, budget, decode, memory, overhead, start)
}


if __name__ == "__main__":
    main()
