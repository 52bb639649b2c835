"""Skip-gram on WikiText-2 beside gensim's: Spearman's correlation on similarity lists, and words a second.

    python scripts/bench_word2vec.py WIKITEXT2_FOLDER LIST [LIST ...] [--seeds 3] [--epochs 5] [--threads 2]

Both get the same words (those of the text without <unk>, five times or more), 100 dimensions, a window of 5, 5
negatives and a sample of 1e-3, one after the other for each seed, and are scored by the same code. Overrides behind the
options go to llm. Needs gensim.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from llmcli.callbacks.history import read_rows
from llmcli.data.word_lists import read_similarity
from llmcli.metrics.words import WordSpace
from llmcli.vectors import VectorFile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="the folder that holds train.txt, valid.txt and test.txt")
    parser.add_argument("lists", type=Path, nargs="+", help="lines `word word score`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options, overrides = parser.parse_known_args()
    lists = {path.stem: read_similarity(path) for path in options.lists}
    with (options.text / "train.txt").open(encoding="utf-8") as file:
        sentences = [[word for word in line.split() if word != "<unk>"] for line in file]
    rows = []
    for seed in range(1, options.seeds + 1):
        for name, train in (("gensim", gensim), ("llm", llm)):
            space, words_per_second, seconds = train(options, sentences, seed, overrides)
            figures = {each: space.similarity(pairs)["spearman"] for each, pairs in lists.items()}
            rows.append((name, figures, words_per_second, seconds))
            print(f"{name:7} seed {seed}  {figures}  {words_per_second:,.0f} words/s  {seconds:.1f} s", flush=True)
    for name in ("gensim", "llm"):
        mine = [row for row in rows if row[0] == name]
        for each in lists:
            found = [row[1][each] for row in mine]
            print(f"{name:7} {each}: mean {statistics.mean(found):.4f}, from {min(found):.4f} to {max(found):.4f}")
        print(f"{name:7} {statistics.median(row[2] for row in mine):,.0f} words/s (median)")


def gensim(options, sentences, seed, overrides):
    from gensim.models import Word2Vec

    model = Word2Vec(
        sg=1, vector_size=100, window=5, negative=5, sample=1e-3, min_count=5, seed=seed, workers=options.threads
    )
    model.build_vocab(sentences)
    began = time.monotonic()
    model.train(sentences, total_examples=model.corpus_count, epochs=options.epochs)
    seconds = time.monotonic() - began
    known = sum(model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key)
    space = WordSpace(model.wv.index_to_key, torch.from_numpy(model.wv.vectors))
    return space, options.epochs * known / seconds, seconds


def llm(options, sentences, seed, overrides):
    """Through the command line, a process of its own; the time is that of training, without validations."""
    with tempfile.TemporaryDirectory() as folder:
        run, vectors = Path(folder) / "run", Path(folder) / "vectors.bin"
        command = [sys.executable, "-m", "llmcli"]
        subprocess.run(
            [*command, "train", "experiment=wikitext2_word2vec", f"data.path={options.text}", f"seed={seed}",
             f"trainer.max_epochs={options.epochs}", f"hydra.run.dir={run}", *overrides],
            check=True, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
        )  # fmt: skip
        subprocess.run([*command, "export", f"ckpt={run}", f"to={vectors}"], check=True, stderr=subprocess.DEVNULL)
        trained = [row for row in read_rows(run / "metrics.csv") if row["tokens_per_second"]]
        tokens = np.diff([0, *(int(row["tokens"]) for row in trained)])
        seconds = float(sum(tokens / [float(row["tokens_per_second"]) for row in trained]))
        found = dict(VectorFile.open(vectors).read())
    known = sum(word in found for sentence in sentences for word in sentence)
    space = WordSpace(list(found), torch.from_numpy(np.stack(list(found.values()))))
    return space, options.epochs * known / seconds, seconds


if __name__ == "__main__":
    main()
