"""A run that turns one text into another, as a function from texts to texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from llmcli.checkpoint import load
from llmcli.decoding.base import SourceModel
from llmcli.decoding.generate import generate
from llmcli.errors import InputError
from llmcli.strategies import strategy_of
from llmcli.trainer import accelerator_of, quiet_lightning

LONGEST = 400  # tokens of a translation


def translator(path: Path, *, named: str) -> Callable[[list[str]], list[str]]:
    """What the run of a checkpoint makes of texts, by its own `decoding`; a text longer than it reads is cut.

    named: what asked for it, for errors. Raises InputError for a run that turns no text into another.
    """
    loaded = load(path)
    quiet_lightning()
    kind, _ = accelerator_of("auto", 1, key="accelerator")
    loaded.task.to(torch.device(kind))
    if not isinstance(loaded.task, SourceModel):
        raise InputError(
            f"{named}: {path} is a {type(loaded.task).__name__} run, which turns no text into another",
            "llm train data=text_pairs model=seq2seq_transformer trains one that does",
        )
    strategy, tokenizer = strategy_of(loaded, None), loaded.tokenizer
    limit = getattr(loaded.task, "max_seq_len", None)

    def translate(texts: list[str]) -> list[str]:
        sources = [tokenizer.encode(text)[: None if limit is None else limit - 1] for text in texts]
        asked = [number for number, source in enumerate(sources) if source]
        found = [""] * len(texts)
        if asked:
            written = generate(
                cast(SourceModel, loaded.task),
                tokenizer,
                [sources[number] for number in asked],
                strategy=strategy,
                max_new_tokens=LONGEST,
                seed=0,
            )
            for number, each in zip(asked, written, strict=True):
                found[number] = each.text.strip()
        return found

    return translate
