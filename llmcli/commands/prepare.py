"""llm prepare: read, clean and tokenize data into the cache, as train would, without training."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from llmcli import config as configs
from llmcli import ui


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    from llmcli.data.duplicates import in_words
    from llmcli.preparation import SECTIONS, prepare_data

    configs.validate(cfg, SECTIONS)
    prepared = prepare_data(cfg)
    splits: dict[str, Any] = prepared.manifest["splits"]
    if twice := in_words(prepared.manifest):
        ui.say("duplicates", twice)
    if left_out := prepared.manifest["left_out"]:
        ui.say("left out", ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()))
    if cfg.json:
        counts = {name: {k: v for k, v in stats.items() if k != "shards"} for name, stats in splits.items()}
        about = {"path": str(prepared.path), "fresh": prepared.fresh, "vocab_size": prepared.tokenizer.vocab_size}
        ui.out_json({**about, "splits": counts, "copies": prepared.manifest["copies"], "left_out": left_out})
        return 0
    columns = ("documents", "tokens", "bytes", "characters")
    ui.table(
        [(name, *(f"{stats[column]:,}" for column in columns)) for name, stats in splits.items()],
        ("split", *columns),
        right=(1, 2, 3, 4),
        stdout=True,
    )
    ui.note(f"{'prepared' if prepared.fresh else 'prepared before'}: {prepared.path}")
    return 0
