"""Speed of segmenters and of the cleaning steps for words: python scripts/bench_segment.py ENGLISH.txt CHINESE.txt

Each reads the first megabytes of both files, in turns. Printed are MB of UTF-8 for each second of one core's time, the
median over the rounds, and how many parts a segmenter gives. `rjieba.cut` bare is the rate to compare Chinese words
with: our part on top is to drop the white space.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rjieba

from llmcli.text import chinese, spelling, stop_words
from llmcli.text.segment.characters import Characters
from llmcli.text.segment.chinese import ChineseWords
from llmcli.text.segment.english import EnglishWords
from llmcli.text.segment.sentences import Sentences
from llmcli.text.segment.whitespace import Whitespace

SPELLING = {"max_edit_distance": 2, "min_length": 4, "capitalized": False, "keep": []}
CASES: dict[str, Callable[[str], Any]] = {
    "whitespace": Whitespace(),
    "English words, contractions whole": EnglishWords(contractions="whole"),
    "English words, contractions treebank": EnglishWords(contractions="treebank"),
    "Chinese words": ChineseWords(hmm=True, user_words=[]),
    "Chinese words, 1,000 of the user's": ChineseWords(
        hmm=True, user_words=[f"{chr(0x4E00 + i)}{chr(0x5E00 + i)}" for i in range(1000)]
    ),
    "rjieba.cut, bare": rjieba.cut,
    "characters": Characters(keep_words=False),
    "characters, words whole": Characters(keep_words=True),
    "sentences": Sentences(),
    "clean: simplified t2s": functools.partial(chinese.to_simplified, profile="t2s"),
    "clean: traditional s2t": functools.partial(chinese.to_traditional, profile="s2t"),
    "clean: stop_words en": functools.partial(stop_words.remove_stop_words, languages=["en"], extra=[], keep=[]),
    "clean: stop_words zh": functools.partial(stop_words.remove_stop_words, languages=["zh"], extra=[], keep=[]),
    "clean: spelling": functools.partial(spelling.correct_spelling, **SPELLING),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("english", type=Path)
    parser.add_argument("chinese", type=Path)
    parser.add_argument("--megabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    size = int(args.megabytes * 1e6)
    texts = [path.read_bytes()[:size].decode("utf-8", "ignore") for path in (args.english, args.chinese)]
    rates: dict[tuple[str, int], list[float]] = {}
    parts: dict[tuple[str, int], int] = {}
    for run in CASES.values():
        run(texts[0][:10_000] + texts[1][:10_000])  # dictionaries are read on first use
    for _ in range(args.rounds):
        for name, run in CASES.items():
            for index, text in enumerate(texts):
                start = time.process_time()
                parts[name, index] = len(run(text))
                seconds = time.process_time() - start
                rates.setdefault((name, index), []).append(len(text.encode()) / 1e6 / seconds)
    print(f"{'':38}{'English MB/s':>14}{'parts':>11}{'Chinese MB/s':>14}{'parts':>11}")
    for name in CASES:
        row = ""
        for index in (0, 1):
            count = "" if name.startswith("clean") else parts[name, index]
            row += f"{statistics.median(rates[name, index]):>14.1f}{count:>11}"
        print(f"{name:38}{row}")


if __name__ == "__main__":
    main()
