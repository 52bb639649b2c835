"""What guessing tokens ahead is worth: decoding=sample, lookup and speculative in turns, on one thread.

    OMP_NUM_THREADS=1 python scripts/bench_speculation.py RUN [--draft RUN] [--prompt-file FILE] [--precision bf16]

Seconds of processor time (of the clock with --clock wall), so that what else the machine does counts for little; the
median of the rounds. Without a file, prompts are passages that are asked for again from their beginning, as a summary
or an answer repeats its text.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from llmcli import checkpoint, runs
from llmcli.config import compose
from llmcli.decoding.generate import generate
from llmcli.loading import precision_of, prepare
from llmcli.strategies import strategy_of

PASSAGES = (
    "Return the number of items in the list. If the list is empty, return zero and leave the file as it is.",
    "The name of the file is a string; it is opened for reading, and closed when the last line has been read.",
    "Raise an error if the value is not in the set of known values, which is made when the module is imported.",
)
BEGUN = 24  # characters of a passage that stand there a second time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--draft", help="a smaller run with the same vocabulary")
    parser.add_argument("--prompt-file", type=Path, help="one prompt a line")
    parser.add_argument("--tokens", type=int, default=100, help="new tokens of each prompt")
    parser.add_argument("--draft-tokens", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--ngram", type=int, nargs="+", default=[3])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if asked.clock == "cpu" else time.perf_counter
    loaded = checkpoint.load(runs.resolve(asked.run, "use"))
    prepare(loaded.task, precision_of(asked.precision), "cpu", generating=True)
    prompts = [f"{each}\n\n{each[:BEGUN]}" for each in PASSAGES]
    if asked.prompt_file is not None:
        prompts = asked.prompt_file.read_text("utf-8").splitlines()
    for temperature in asked.temperature:
        ways = {"sample": ["decoding=sample"]}
        for n in asked.draft_tokens:
            for ngram in asked.ngram:
                ways[f"lookup, {n} of {ngram}"] = [
                    "decoding=lookup",
                    f"decoding.draft_tokens={n}",
                    f"decoding.ngram={ngram}",
                ]
            if asked.draft is not None:
                ways[f"speculative, {n}"] = [
                    "decoding=speculative", f"decoding.draft_tokens={n}", f"decoding.draft={asked.draft}",
                ]  # fmt: skip
        strategies = {
            name: strategy_of(loaded, compose("generate", [*keys, f"decoding.temperature={temperature}"]).decoding)
            for name, keys in ways.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        per_step: dict[str, float] = {}
        for turn in range(asked.rounds + 1):  # the first warms up
            for name, strategy in strategies.items():
                taken, tokens, steps = 0.0, 0, 0
                for prompt in prompts:  # one at a time, as they are typed
                    began = clock()
                    [found] = generate(
                        loaded.task,
                        loaded.tokenizer,
                        [prompt],
                        strategy=strategy,
                        max_new_tokens=asked.tokens,
                        seed=turn,
                        unknown="replace",
                    )
                    taken += clock() - began
                    tokens, steps = tokens + len(found.ids), steps + found.steps
                if turn:
                    seconds[name].append(taken / tokens)
                per_step[name] = tokens / steps
        plain = statistics.median(seconds["sample"])
        for name, each in seconds.items():
            median = statistics.median(each)
            print(
                f"temperature {temperature}  {name:<16} {1 / median:8.1f} tokens/s  {per_step[name]:.2f} tokens a step"
                f"  {plain / median:.2f} times as fast"
            )


if __name__ == "__main__":
    main()
