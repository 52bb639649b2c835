"""Pieces, chunks, groups of parts and processes are only how the work is done: ids are those of whole documents."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from llmcli.data import build, workers
from llmcli.data.prepare import prepare
from llmcli.data.readers import stream
from llmcli.tokenizers import cuts, subword

PIECE = 5_000  # characters; 1 << 20 as shipped


def corpus():
    """One document of 400,000 characters and 4,000 of up to 80: words, code, numbers and Chinese."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(3_000)]
    signs = [": ", ", ", "; ", ").\n", "\n\n", "\n    ", "()\n\n\n# ", " = ", "\t", "  ", "。\n", "\n- "]
    others = ["今天天气很好", "我们去公园", "123", "3.14", "_x", "\u2581", "naïve", "\U0001f600"]

    def text(n):
        parts = (rng.choice(rng.choice([words, words, signs, signs, others])) for _ in range(n // 3))
        return "".join(parts)[:n]

    return [text(400_000), *(text(rng.randint(3, 80)) for _ in range(4_000))]


@pytest.mark.parametrize("count", [1, 2], ids=["alone", "two processes"])
def test_one_huge_document_and_many_tiny_ones_have_the_ids_of_each_encoded_whole(
    tmp_path, text_files, monkeypatch, count
):
    texts = corpus()
    options = {"character_coverage": 1.0, "max_piece_length": 16, "sample_characters": 100_000, "seed": 0}
    bpe = subword.train(texts, algorithm="bpe", vocab_size=1_000, **options)
    expected = bpe._encode_whole(texts)  # SentencePiece on whole texts, not part by part
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")

    monkeypatch.setattr(stream.pieces, "__defaults__", (PIECE,))
    monkeypatch.setattr(build, "CHUNK_CHARACTERS", 3 * PIECE)
    monkeypatch.setattr(cuts, "_AT_ONCE", 2_000)
    monkeypatch.setattr(cuts, "_REMEMBERED", 1_000)
    monkeypatch.setattr(workers, "PATIENCE", -1.0)
    prepared = prepare(text_files(path), tokenizer=bpe, tokenizer_key={}, workers=count)

    train = prepared.split("train")
    assert prepared.count("documents", "train") == len(texts)
    np.testing.assert_array_equal(train.document_ends, np.cumsum([len(ids) + 1 for ids in expected]))
    np.testing.assert_array_equal(train.read(0, len(train)), np.concatenate([[*ids, bpe.eos_id] for ids in expected]))
