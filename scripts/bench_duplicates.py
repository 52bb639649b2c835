"""How well and how fast near duplicates are found: python scripts/bench_duplicates.py [--pairs 3000]

Pairs of known similarity are planted: documents of at least 100 words from the documentation of the Python that runs
this, and copies of them with random words replaced. Prints, by the exact Jaccard similarity of their word 3-shingles,
how many of them are found; then documents/s and memory of a pass over the same documents; then the speed of the two
kept libraries at making signatures.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections import defaultdict
from functools import partial

from llmcli.config import build, compose
from llmcli.data.duplicates import Duplicates, Kept, shingles
from llmcli.data.records import LabeledText
from llmcli.data.source import TextSource

WORDS = 100
BANDS = ((0.0, 0.4), (0.4, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0))


def documents(source: TextSource) -> list[list[str]]:
    """The words of every document of at least WORDS words, the first 1,000 of each."""
    whole, held = [], ""
    for piece in source.records("train"):
        held += piece.text
        if piece.end:
            whole.append(held.split()[:1000])
            held = ""
    return [words for words in whole if len(words) >= WORDS]


def edited(words: list[str], share: float, vocabulary: list[str], rng: random.Random) -> str:
    """The words with this share of them replaced by others."""
    changed = list(words)
    for place in rng.sample(range(len(words)), round(share * len(words))):
        changed[place] = rng.choice(vocabulary)
    return " ".join(changed)


def similarity(first: str, second: str, size: int) -> float:
    a, b = set(shingles(first, size)), set(shingles(second, size))
    return len(a & b) / len(a | b)


def accuracy(policy: Duplicates, texts: list[list[str]], pairs: int, seed: int) -> None:
    rng = random.Random(seed)
    vocabulary = sorted({word for words in texts for word in words})
    index, originals = policy.index(), []
    for words in texts:
        mark = policy.mark(" ".join(words))
        if not index.find(mark):  # what Python's own documentation has twice
            index.add(mark)
            originals.append(words)
    planted, found, others = defaultdict(int), defaultdict(int), 0
    for _ in range(pairs):
        number = rng.randrange(len(originals))
        copy = edited(originals[number], rng.uniform(0.0, 0.35), vocabulary, rng)
        close = similarity(" ".join(originals[number]), copy, policy.shingle)
        band = next(band for band in BANDS if band[0] <= close < band[1] or close == band[1] == 1.0)
        reported = index.find(policy.mark(copy))
        planted[band] += 1
        found[band] += number in reported
        others += sum(similarity(" ".join(originals[i]), copy, 3) < 0.4 for i in reported if i != number)
    print(f"{len(originals):,} documents, {pairs:,} edited copies, threshold {policy.threshold}, seed {seed}")
    for band in BANDS:
        share = f"{found[band] / planted[band]:7.2%}" if planted[band] else "      -"
        print(f"  similarity {band[0]:.1f} to {band[1]:.1f}: {planted[band]:6,} pairs, reported {share}")
    print(f"  documents below 0.4 reported besides: {others:,}")


def speed(name: str, policy: Duplicates, texts: list[list[str]], copies: int) -> None:
    rng = random.Random(0)
    records = []
    for _ in range(copies):  # shuffled words, so that every document is new
        for words in texts:
            records.append(LabeledText(" ".join(rng.sample(words, len(words)))))
    size = sum(len(record.text.encode()) for record in records)
    before, start = resident(), time.process_time()
    kept = Kept(lambda split: iter(records), ("train",), policy)
    left = sum(1 for _ in kept.records("train"))
    seconds = time.process_time() - start
    each = (resident() - before) / len(records)
    print(
        f"  {name:6} {len(records) / seconds:9,.0f} documents/s  {size / 1e6 / seconds:6.1f} MB/s  "
        f"{each:6,.0f} bytes a document  ({len(records):,} of {size / len(records):,.0f} bytes each, {left:,} kept)"
    )


def resident() -> int:
    """The most bytes this process has held in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def libraries(texts: list[list[str]]) -> None:
    from datasketch import MinHash
    from rensa import RMinHash

    sets = [shingles(" ".join(words), 3) for words in texts[:1000]]
    for name, make in (
        ("rensa", partial(RMinHash, num_perm=128, seed=1)),
        ("datasketch", partial(MinHash, num_perm=128)),
    ):
        start = time.process_time()
        for each in sets:
            made = make()
            if name == "rensa":
                made.update(each)
            else:
                made.update_batch([shingle.encode() for shingle in each])
        print(f"  signatures by {name:10} {len(sets) / (time.process_time() - start):9,.0f} documents/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--copies", type=int, default=10, help="times that the documents are repeated, shuffled")
    options = parser.parse_args()
    configs = {name: compose("train", [f"duplicates={name}"]) for name in ("exact", "near")}
    policies = {name: build(cfg.duplicates) for name, cfg in configs.items()}
    texts = documents(build(configs["near"].data))
    accuracy(policies["near"], texts, options.pairs, options.seed)
    for name, policy in policies.items():
        speed(name, policy, texts, options.copies)
    libraries(texts)


if __name__ == "__main__":
    main()
