"""Speed and memory of preparing, and the cost of a training batch.

    python scripts/bench_prepare.py speed --megabytes 100 --rounds 3    beside sentencepiece's and HF's own encoding
    python scripts/bench_prepare.py memory --megabytes 10 100 1000      all processes summed
    python scripts/bench_prepare.py loader --megabytes 100              milliseconds a batch

The corpus is JSON lines: the sources and documentation of the installed Python and its packages, every file one
document, in a random order with a fixed seed; where there is not enough, again with words changed. It and the tokenizer
(BPE of 32,000 pieces, learned from a sample) are kept in --folder. Every measurement is a process of its own; seconds
of processor time count all processes, and are what to compare on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

CORES = 2
_WORD = re.compile(r"([a-z]{5,})")


def documents() -> Iterator[str]:
    """Without end."""
    roots = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")}
    files = sorted(path for root in roots for path in root.rglob("*") if path.suffix in (".py", ".rst", ".md", ".txt"))
    random.Random(0).shuffle(files)
    for turn in range(1_000):
        letters = random.Random(turn).sample("abcdefghijklmnopqrstuvwxyz", 26)
        table = str.maketrans("abcdefghijklmnopqrstuvwxyz", "".join(letters))
        for file in files:
            text = file.read_text(encoding="utf-8", errors="replace")
            if turn:  # of the words a third become others, everywhere the same
                text = "".join(
                    part.translate(table) if number % 2 and len(part) % 3 == 0 else part
                    for number, part in enumerate(_WORD.split(text))
                )
            if 200 < len(text) < 1_000_000:
                yield text


def corpus(folder: Path, megabytes: int) -> Path:
    path = folder / f"{megabytes}mb.jsonl"
    if not path.is_file():
        size = 0
        with path.open("w", encoding="utf-8") as file:
            for text in documents():
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                size += len(text.encode())
                if size >= megabytes * 1_000_000:
                    break
    return path


def tokenizer(folder: Path):
    from llmcli.tokenizers import store, subword

    if not (folder / "bpe").is_dir():
        texts = [json.loads(line)["text"] for line in corpus(folder, 10).open(encoding="utf-8")]
        options = {"character_coverage": 0.9995, "max_piece_length": 16, "sample_characters": 5_000_000, "seed": 0}
        store.save(subword.train(texts, algorithm="bpe", vocab_size=32_000, **options), folder / "bpe")
    return store.load(folder / "bpe")


def prepared(folder: Path, path: Path, workers: int):
    from llmcli import config
    from llmcli.data.prepare import prepare

    options = [f"data.path={config.quoted(str(path))}", "data.val_fraction=0", "data.split=document"]
    source = config.build(config.compose("prepare", ["data=text", *options]).data)
    made = {"tokenizer": tokenizer(folder), "tokenizer_key": {}, "workers": workers}
    return prepare(source, cache_dir=folder / "cache", **made)


def once(what: str, folder: Path, path: Path) -> None:
    """One measured process: prints megabytes, seconds, seconds of processor time and tokens."""
    own = tokenizer(folder)
    texts = [] if what == "llm" else [json.loads(line)["text"] for line in path.open(encoding="utf-8")]
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    used, begun = sum(each.ru_utime + each.ru_stime for each in usage), time.perf_counter()
    if what == "llm":
        shutil.rmtree(folder / "cache", ignore_errors=True)
        tokens = prepared(folder, path, CORES).count("tokens")
    elif what.startswith("sentencepiece"):
        lines = what.endswith("lines")
        parts = [line for text in texts for line in text.splitlines(keepends=True)] if lines else texts
        tokens = sum(map(len, own._processor.encode(parts, num_threads=CORES)))
    else:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        os.environ["RAYON_NUM_THREADS"] = str(CORES)
        saved = folder / "hf.json"
        if saved.is_file():
            other = Tokenizer.from_file(str(saved))
        else:
            other = Tokenizer(models.BPE())
            other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            sample = [json.loads(line)["text"] for line in corpus(folder, 10).open(encoding="utf-8")]
            other.train_from_iterator(sample, trainers.BpeTrainer(vocab_size=32_000, show_progress=False))
            other.save(str(saved))
            return once(what, folder, path)
        tokens = sum(len(each.ids) for each in other.encode_batch(texts, add_special_tokens=False))
    seconds = time.perf_counter() - begun
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    used = sum(each.ru_utime + each.ru_stime for each in usage) - used
    print(json.dumps({"seconds": seconds, "cpu": used, "tokens": tokens}))


def speed(folder: Path, megabytes: int, rounds: int) -> None:
    path = corpus(folder, megabytes)
    size = sum(len(json.loads(line)["text"].encode()) for line in path.open(encoding="utf-8")) / 1e6
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for what in ("llm", "sentencepiece", "sentencepiece lines", "tokenizers"):
            command = [sys.executable, __file__, "once", "--folder", str(folder), "--what", what, "--path", str(path)]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.setdefault(what, []).append(json.loads(line))
            print(what, line.strip(), flush=True)
    for what, each in found.items():
        wall, cpu = (statistics.median(size / one[key] for one in each) for key in ("seconds", "cpu"))
        print(f"{what:20} {wall:6.1f} MB/s   {cpu:6.1f} MB per second of processor   {each[0]['tokens']:,} tokens")


def memory(folder: Path, sizes: list[int]) -> None:
    import psutil

    for megabytes in sizes:
        path = corpus(folder, megabytes)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        for what in ("prepare", "read"):
            command = [sys.executable, __file__, what, "--folder", str(folder), "--path", str(path)]
            process = psutil.Popen(command)
            peaks = {"rss": 0, "own": 0}
            while process.poll() is None:
                found = {"rss": 0, "own": 0}
                for each in [process, *process.children(recursive=True)]:
                    try:
                        info = each.memory_info()
                    except psutil.Error:
                        continue
                    found["rss"] += info.rss
                    found["own"] += info.rss - info.shared  # without mapped files and libraries
                peaks = {name: max(peaks[name], found[name]) for name in peaks}
                time.sleep(0.1)
            if process.returncode:
                raise SystemExit(process.returncode)
            mib = {name: value / 2**20 for name, value in peaks.items()}
            print(
                f"{what} {megabytes:,} MB: peak {mib['rss']:,.0f} MiB, {mib['own']:,.0f} without mapped files",
                flush=True,
            )


def loader(folder: Path, path: Path) -> None:
    from llmcli.data.module import WindowData

    data = WindowData(
        prepared=prepared(folder, path, CORES),
        seed=1,
        contiguous=False,
        size=16,
        seq_len=256,
        eval_size=None,
        num_workers=0,
    )
    plan = data.train_dataloader()
    batches = iter(plan)
    begun = time.perf_counter()
    next(batches)
    first = time.perf_counter() - begun
    taken = []
    for _ in range(min(2_000, len(plan) - 1)):
        begun = time.perf_counter()
        next(batches)
        taken.append(time.perf_counter() - begun)
    mean, worst = statistics.mean(taken) * 1e3, statistics.quantiles(taken, n=100)[98] * 1e3
    print(f"first batch {first * 1e3:.1f} ms, then {mean:.3f} ms on average, {worst:.3f} ms at the 99th percentile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("speed", "memory", "loader", "once", "prepare", "read"))
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("bench_prepare"))
    parser.add_argument("--what", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["LLM_CACHE"] = str(options.folder / "cache")
    if options.command == "once":
        once(options.what, options.folder, options.path)
    elif options.command == "speed":
        tokenizer(options.folder)
        speed(options.folder, options.megabytes[0], options.rounds)
    elif options.command == "memory":
        tokenizer(options.folder)
        memory(options.folder, options.megabytes)
    elif options.command == "prepare":
        from llmcli.data import workers

        workers.PATIENCE = -1.0  # workers for the smallest corpus too, or it would need less
        prepared(options.folder, options.path, CORES)
    elif options.command == "read":
        loader(options.folder, options.path)
    else:
        loader(options.folder, corpus(options.folder, options.megabytes[0]))


if __name__ == "__main__":
    main()
