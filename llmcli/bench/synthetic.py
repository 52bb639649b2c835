"""Random tokens that stand where prepared text stands, so that a bench needs no data, and what is built on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from llmcli import assembly, schema
from llmcli import config as configs
from llmcli.assembly import Parts
from llmcli.data.prepare import Prepared
from llmcli.data.records import Text
from llmcli.data.shards import id_dtype
from llmcli.errors import InputError
from llmcli.fitting import check_pair
from llmcli.tokenizers.base import RESERVED
from llmcli.tokenizers.char import CharTokenizer

_FIRST = 0x10000  # from here on every code point is a character of its own
LARGEST = 1_000_000
_BATCHES = 64  # of training, before the same tokens come again
_NO_VOCABULARY = 272  # of a tokenizer that counts for itself: 256 bytes and the reserved ids


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


def parts(cfg: DictConfig, choices: Mapping[str, str], folder: Path, *, vocab_size: int | None) -> Parts:
    """All that `llm train` would build of a config, on random tokens in `folder`.

    vocab_size: None is that of the tokenizer. Raises InputError for a task that does not learn from running text, and
    for whatever `llm train` would refuse.
    """
    check_pair(cfg, choices)
    configs.validate(cfg)
    takes = getattr(schema.locate(str(cfg.task._target_)), "takes", ())
    if Text.__name__ not in takes or getattr(schema.locate(str(cfg.batch._target_)), "gives", "windows") != "windows":
        raise InputError(
            f"llm bench measures what learns from running text; task={choices.get('task')} takes {' or '.join(takes)}",
            "task=language_modeling with the same model says what its layers cost",
        )
    tokens = int(cfg.batch.size) * int(cfg.batch.seq_len) * int(cfg.trainer.accumulate)
    prepared = random_tokens(
        folder,
        vocab_size=vocab_size or cfg.tokenizer.get("vocab_size") or _NO_VOCABULARY,
        train=max(1, tokens * _BATCHES) + 1,
        val=max(1, int(cfg.batch.seq_len)) + 1,
        seed=int(cfg.seed),
    )
    return assembly.build(cfg, choices, prepared=prepared)
