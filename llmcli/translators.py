"""A run that turns one text into another, as a function from texts to texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast
from zlib import crc32

import torch

from llmcli.checkpoint import load
from llmcli.decoding.base import SourceModel
from llmcli.decoding.generate import generate
from llmcli.errors import InputError
from llmcli.strategies import strategy_of
from llmcli.trainer import accelerator_of, quiet_lightning

LONGEST = 400  # tokens of a translation


def translator(path: Path, *, named: str) -> Callable[[list[str]], list[str]]:
    """What the run of a checkpoint makes of texts, by its own `decoding`; a text longer than it reads is cut. What is
    drawn for one follows from the text alone, not from those beside it.

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
        sources = [tokenizer.of_sources.encode(text)[: None if limit is None else limit - 1] for text in texts]
        written = generate(
            cast(SourceModel, loaded.task),
            tokenizer,
            sources,
            strategy=strategy,
            max_new_tokens=LONGEST,
            seed=[crc32(text.encode("utf-8", "surrogatepass")) for text in texts],
            skip_blank=True,
        )
        return [each.text.strip() for each in written]

    return translate
