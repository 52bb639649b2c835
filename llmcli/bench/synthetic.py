"""Random tokens that stand where prepared text stands, so that a bench needs no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmcli.data.prepare import Prepared
from llmcli.data.records import Text
from llmcli.data.shards import id_dtype
from llmcli.errors import InputError
from llmcli.tokenizers.base import RESERVED
from llmcli.tokenizers.char import CharTokenizer

_FIRST = 0x10000  # from here on every code point is a character of its own
LARGEST = 1_000_000


def random_tokens(folder: Path, *, vocab_size: int, train: int, val: int, seed: int) -> Prepared:
    """So many ids of each split, uniform over what is not reserved, and a tokenizer of one character an id.

    Raises InputError for a vocabulary without room for one token, or larger than there are characters.
    """
    if not len(RESERVED) < vocab_size <= LARGEST:
        raise InputError(
            f"vocab_size ({vocab_size:,}) must be above {len(RESERVED)}, which are reserved, and at most {LARGEST:,}"
        )
    dtype = id_dtype(vocab_size)
    splits: dict[str, Any] = {}
    generator = np.random.default_rng(seed)
    for name, tokens in (("train", train), ("val", val)):
        ids = generator.integers(len(RESERVED), vocab_size, tokens).astype(dtype)
        ids.tofile(folder / f"{name}.ids")
        np.array([tokens], "<u8").tofile(folder / f"{name}.ends")
        shard = {"ids": f"{name}.ids", "ends": f"{name}.ends", "tokens": tokens, "documents": 1}
        counts = {"documents": 1, "tokens": tokens, "bytes": 4 * tokens, "characters": tokens, "unknown": 0}
        splits[name] = {**counts, "shards": [shard]}
    manifest = {
        "record": Text.__name__,
        "dtype": dtype,
        "splits": splits,
        "source": {"random": seed},
        "origin": "random tokens",
        "content": "0000",
        "left_out": {},
    }
    characters = "".join(map(chr, range(_FIRST, _FIRST + vocab_size - len(RESERVED))))
    return Prepared(path=folder, manifest=manifest, tokenizer=CharTokenizer(characters), fresh=True)
