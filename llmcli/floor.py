"""What counting n-grams gives on the same tokens: the floor beside every language model."""

from __future__ import annotations

from llmcli import files
from llmcli.data.prepare import Prepared
from llmcli.models import ngram

ORDER = 5
MOST_TOKENS = 5_000_000  # of each split: seconds of work and a few hundred MB


def ngram_floor(prepared: Prepared, split: str) -> float:
    """Loss in nats per token on a split of the interpolated Kneser-Ney model of the train split, kept with the data."""
    path = prepared.path / "floor.json"
    known = files.read_json(path)
    if split not in known:
        train, scored = prepared.split("train"), prepared.split(split)
        known[split] = ngram.floor(
            train.read(0, min(len(train), MOST_TOKENS)),
            scored.read(0, min(len(scored), MOST_TOKENS)),
            prepared.tokenizer.vocab_size,
            order=ORDER,
        )
        files.write_json(path, known)
    return float(known[split])
