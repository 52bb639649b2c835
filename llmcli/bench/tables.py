"""The figures of a bench as tables on stdout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmcli import ui
from llmcli.bench.measuring import Spread

Row = tuple[str, str, str]


def show(result: Mapping[str, Any]) -> None:
    """One table of everything: figure, median (lowest-highest), what it stands beside."""
    machine, versions = result["machine"], result["versions"]
    named = machine["accelerator"] if str(result.get("device", "cpu")).startswith("cuda") else machine["processor"]
    about = ", ".join(f"{name} {number}" for name, number in versions.items())
    ui.out(f"{named}, {machine['cores']} cores, {machine['threads']} threads; {about}")
    ui.out(f"median of {result['rounds']} rounds (lowest-highest), by the {_CLOCKS[result['clock']]}")
    makers = {"ceilings": ceilings, "train": train, "generate": generate, "prepare": prepare, "start": start}
    for name, rows in makers.items():
        if name in result:
            ui.out("")
            ui.table(list(rows(result[name])), (_TITLES[name], "", ""), right=(1,), stdout=True)


_CLOCKS = {"wall": "clock", "cpu": "processor time"}
_TITLES = {
    "ceilings": "the machine",
    "train": "training",
    "generate": "generation",
    "prepare": "preparing, by the clock",
    "start": "start-up",
}


def ceilings(found: Mapping[str, Any]) -> Iterator[Row]:
    """Rows of what the machine itself can do."""
    for name in (each for each in found if each != "memory"):
        yield f"matrix products, {name}", spread(found[name]).show(scale=1e-9), "GFLOP/s"
    yield "memory, read", spread(found["memory"]).show("{:,.1f}", 1e-9), "GB/s"


def train(found: Mapping[str, Any]) -> Iterator[Row]:
    """Rows of a training step."""
    step = spread(found["step_seconds"])
    rate = spread(found["matmul_flop_per_second"]).show(scale=1e-9)
    yield "tokens/s", spread(found["tokens_per_second"]).show(), f"{found['tokens_per_step']:,} tokens a step"
    yield (
        "model FLOP utilisation",
        spread(found["model_flop_utilisation"]).show("{:.1f}", 100) + " %",
        f"of {rate} GFLOP/s ({found['matmul_dtype']}) in the same rounds",
    )
    yield "step", step.show("{:,.2f}", 1e3) + " ms", ""
    for name, value in found["split_seconds"].items():
        part = spread(value)
        share = part.median / step.median
        yield f"  {name}", part.show("{:,.2f}", 1e3) + " ms", f"{share:.1%}{_OF.get(name, '')}"
    if "peak_memory_bytes" in found:
        before = f"{found['memory_before_bytes'] / 2**20:,.0f} MiB before the first step"
        yield "peak memory", f"{found['peak_memory_bytes'] / 2**20:,.0f} MiB", before
    for name, side in found["beside"].items():
        faster = spread(side["llm_is_faster_by"]).show("{:.2f}")
        yield f"{name}, tokens/s", spread(side["tokens_per_second"]).show(), f"llm is {faster} times as fast"


_OF = {"overhead": ": what Lightning and the callbacks add"}


def generate(found: Mapping[str, Any]) -> Iterator[Row]:
    """Rows of each batch size."""
    yield (
        "weights that a step reads",
        f"{found['weights_bytes'] / 1e6:,.1f} MB",
        f"{found['weights_dtype']}; {found['prompt_tokens']} tokens of prompt, {found['new_tokens']} new ones",
    )
    for batch in found["batches"]:
        size, ours = batch["batch_size"], batch["llm"]
        yield f"batch {size}: prompt, tokens/s", spread(ours["prompt_tokens_per_second"]).show(), ""
        share = spread(ours["share_of_bandwidth"]).show("{:.0f}", 100)
        of_memory = f"{share} % of memory's rate" if size == 1 else ""
        yield f"batch {size}: decode, tokens/s", spread(ours["decode_tokens_per_second"]).show("{:,.1f}"), of_memory
        for name in (each for each in batch if each not in ("batch_size", "llm", "memory_bytes_per_second")):
            side = batch[name]
            faster = spread(side["llm_is_faster_by"]).show("{:.2f}")
            rate = spread(side["decode_tokens_per_second"]).show("{:,.1f}")
            yield f"batch {size}: {name}", rate, f"llm is {faster} times as fast"


def prepare(found: Mapping[str, Any]) -> Iterator[Row]:
    """Rows of preparing."""
    size = f"{found['bytes'] / 1e6:,.1f} MB, {found['tokens']:,} tokens of {found['vocab_size']:,} kinds"
    yield "text, MB/s", spread(found["bytes_per_second"]).show("{:,.2f}", 1e-6), size
    yield "with learning the tokenizer", f"{found['first_seconds']:,.1f} s", "the first time"


def start(found: Mapping[str, Any]) -> Iterator[Row]:
    """Rows of start-up."""
    for name, meaning in STARTS.items():
        yield meaning, spread(found[f"{name}_seconds"]).show("{:,.2f}") + " s", ""


STARTS = {
    "python": "Python alone",
    "help": "llm --help",
    "imports": "importing torch and Lightning",
    "first_step": "llm train to its first step",
    "first_step_over_imports": "  beyond those imports",
    "first_token": "llm generate to its first token",
    "first_token_over_imports": "  beyond those imports",
}


def decisive(result: Mapping[str, Any]) -> dict[str, Spread]:
    """The figures whose spread tells whether the machine was quiet."""
    found = {}
    if "train" in result:
        found["training"] = spread(result["train"]["tokens_per_second"])
    for batch in result.get("generate", {}).get("batches", ()):
        found[f"decoding of {batch['batch_size']}"] = spread(batch["llm"]["decode_tokens_per_second"])
    if "prepare" in result:
        found["preparing"] = spread(result["prepare"]["bytes_per_second"])
    if "start" in result:
        found["start-up"] = spread(result["start"]["first_step_seconds"])
    return found


def spread(plain: Mapping[str, float]) -> Spread:
    """From the JSON back again."""
    return Spread(plain["median"], plain["min"], plain["max"])
