"""Decoding by llama.cpp, for scripts/bench.py: PYTHON scripts/bench_llamacpp.py GGUF PROMPT NEW THREADS wall|cpu

It runs in an interpreter that has llama-cpp-python, which may be another than ours, stays there, and for each line on
its standard input prints one with a JSON list: seconds from the beginning to each new token after a prompt of so many
tokens, greedy. The model is loaded and has written once before.
"""

from __future__ import annotations

import json
import sys
import time

import llama_cpp

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    path, prompt, new, threads, clock = sys.argv[1:]
    n_prompt, n_new = int(prompt), int(new)
    model = llama_cpp.Llama(
        path,
        n_ctx=n_prompt + n_new + 1,
        n_threads=int(threads),
        n_threads_batch=int(threads),
        verbose=False,
        logits_all=False,
    )
    write(model, n_prompt, n_new, CLOCKS[clock])
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(write(model, n_prompt, n_new, CLOCKS[clock])) + "\n")
        sys.stdout.flush()


def write(model: llama_cpp.Llama, n_prompt: int, n_new: int, clock) -> list[float]:
    ids = [100 + number for number in range(n_prompt)]
    model.reset()
    times = []
    began = clock()
    for _, _ in zip(model.generate(ids, temp=0.0, reset=True), range(n_new), strict=False):
        times.append(clock() - began)
    return times


if __name__ == "__main__":
    main()
