"""What a run makes of sources: its texts, and how they score beside the references of a split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from llmcli import config as configs
from llmcli import files
from llmcli.checkpoint import Loaded
from llmcli.data.examples import Examples
from llmcli.data.records import TextPair
from llmcli.decoding.base import Search, SourceModel, Strategy
from llmcli.decoding.generate import Generation, generate
from llmcli.metrics.translation import translation_scores
from llmcli.tasks.base import Task
from llmcli.tokenizers.base import Tokenizer

AT_ONCE = 256  # sources between two reports of progress
TEXTS = "decoded.jsonl"


def own_strategy(loaded: Loaded) -> Strategy | Search:
    """How the run was to decode: its own `decoding`."""
    strategy: Strategy | Search = configs.build(OmegaConf.create(loaded.config).decoding, trusted=loaded.trusted)
    return strategy


def score_decoded(
    task: Task,
    tokenizer: Tokenizer,
    examples: Examples,
    *,
    strategy: Strategy | Search,
    max_new_tokens: int,
    folder: Path | None,
    report: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Figures of the texts that `strategy` finds for all sources, which are cut to what the model reads.

    Those of `translation_scores`, and `exact`, the share that is the reference to the letter. folder: for `TEXTS`,
    with source, reference and text of each example; None writes nothing. report is called with how many are done.
    """
    records = [cast(TextPair, record) for record in examples]
    limit = getattr(task, "max_seq_len", None)
    longest = None if limit is None else limit - 1  # an end follows
    sources = [examples.ids(number)[0].tolist()[:longest] for number in range(len(examples))]
    order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
    found: dict[int, Generation] = {}
    for start in range(0, len(order), AT_ONCE):
        numbers = order[start : start + AT_ONCE]
        results = generate(
            cast(SourceModel, task),
            tokenizer,
            [sources[number] for number in numbers],
            strategy=strategy,
            max_new_tokens=max_new_tokens,
            seed=0,
        )
        found.update(zip(numbers, results, strict=True))
        if report is not None:
            report(len(found))
    texts = [found[number].text.strip() for number in range(len(records))]
    references = [record.target.strip() for record in records]
    figures = translation_scores(texts, references)
    signatures = figures.pop("signatures")
    figures["exact"] = sum(text == reference for text, reference in zip(texts, references, strict=True)) / len(texts)
    figures.update({f"{name}_signature": signature for name, signature in signatures.items()})
    if folder is not None:
        rows = [
            {"source": record.source, "reference": record.target, "text": text}
            for record, text in zip(records, texts, strict=True)
        ]
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files.write_atomic(folder / TEXTS, content.encode())
        figures["decoded"] = str(folder / TEXTS)
    return figures
