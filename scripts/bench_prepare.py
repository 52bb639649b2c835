"""Speed and peak memory of preparing one file of a given size: python scripts/bench_prepare.py 10 100 [--one-line]

Each size (in MB) runs in a process of its own, on text made up of words, with newlines or as one line, with byte
tokens. Prints MB/s (the file's, through hashing, counting, reading twice and writing) and peak resident memory.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_corpus(path: Path, megabytes: int, one_line: bool) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzé", k=rng.randint(2, 9))) for _ in range(5000)]
    joint = " " if one_line else "\n"
    block = "".join(" ".join(rng.choices(words, k=12)) + joint for _ in range(12_000)).encode()
    with path.open("wb") as file:
        for _ in range(megabytes * 1_000_000 // len(block) + 1):
            file.write(block)
        file.truncate(megabytes * 1_000_000)


def measure(path: Path) -> None:
    from llmcli.data.prepare import prepare
    from llmcli.data.readers.text import TextFiles
    from llmcli.tokenizers.byte import ByteTokenizer

    source = TextFiles(
        path=str(path),
        encoding="utf-8",
        errors="replace",  # the last character may be cut
        key="text",
        document="file",
        split="auto",
        val_fraction=0.1,
        test_fraction=0.0,
        seed=0,
        eos=True,
    )
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter()
    prepared = prepare(source, tokenizer=ByteTokenizer(), tokenizer_key={})
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = path.stat().st_size / 1e6
    print(
        f"{size:7,.0f} MB  {seconds:7.1f} s  {size / seconds:6.1f} MB/s  peak {peak:,.0f} MiB "
        f"({before:,.0f} before)  {prepared.count('tokens'):,} tokens"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("megabytes", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--one-line", action="store_true", help="a text without newlines")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure)
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus.txt"
            write_corpus(corpus, megabytes, options.one_line)
            command = [sys.executable, __file__, "--measure", str(corpus)]
            subprocess.run(command, check=True, env={**os.environ, "LLM_CACHE": f"{folder}/cache"})


if __name__ == "__main__":
    main()
