"""Preparing data: megabytes of text a second, cleaned, encoded and written."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from llmcli import config as configs
from llmcli.bench.measuring import Spread, Stopwatch
from llmcli.data.prepare import prepare
from llmcli.errors import InputError


def measure(cfg: DictConfig, watch: Stopwatch, *, rounds: int) -> dict[str, Any]:
    """Prepare the data of the config into a folder of its own each time, and throw it away.

    The first time the tokenizer learns from the text, where it is of a kind that does, which is not counted. Raises
    InputError for data that would be downloaded first.
    """
    source = configs.build(cfg.data)
    if missing := source.missing():
        raise InputError(
            f"the data to prepare is not on this machine: {missing[0]}",
            "llm prepare data=... downloads it; or data=text data.path=my.txt",
        )
    steps: dict[str, Any] = {"clean": configs.build(cfg.clean), "duplicates": configs.build(cfg.duplicates)}
    tokenizer, rates, first = configs.build(cfg.tokenizer), [], 0.0
    for round_ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            began = watch()
            prepared = prepare(
                source,
                **steps,
                tokenizer=tokenizer,
                tokenizer_key=configs.resolved(cfg.tokenizer),
                cache_dir=Path(folder),
                workers=cfg.prepare.workers,
            )
            seconds = watch() - began
            size = prepared.count("bytes")
            if round_:
                rates.append(size / seconds)
            else:
                tokenizer, first = prepared.tokenizer, seconds
    return {
        "bytes": size,
        "tokens": prepared.count("tokens"),
        "bytes_per_second": Spread.of(rates).plain(),
        "first_seconds": first,
        "vocab_size": prepared.tokenizer.vocab_size,
    }
