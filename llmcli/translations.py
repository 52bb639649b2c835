"""Training examples that runs of our own translate: what `prepare.reworded_by` and `prepare.sources_by` ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmcli.data.back_translation import Translate
from llmcli.data.cache import sha256_file
from llmcli.data.source import Source
from llmcli.data.translated import with_reworded, with_synthetic_pairs
from llmcli.errors import InputError
from llmcli.runs import resolve


def without_translations(cfg: DictConfig) -> DictConfig:
    """The config of the same data as it was read, with nothing added."""
    changed = cfg.copy()
    for key in ("reworded_by", "sources_by", "targets"):
        if OmegaConf.select(changed, f"prepare.{key}"):
            OmegaConf.update(changed, f"prepare.{key}", None)
    return changed


def with_translations(source: Source[Any], chosen: Mapping[str, Any]) -> Source[Any]:
    """What `prepare.reworded_by`, or `prepare.sources_by` and `prepare.targets`, add to train."""
    by, sources_by, targets = (chosen.get(key) for key in ("reworded_by", "sources_by", "targets"))
    if not by and sources_by is None and targets is None:
        return source
    if by:
        if isinstance(by, str) or len(by) != 2:
            raise InputError(
                f"prepare.reworded_by ({by}) must be two runs, out of the language of the texts and back",
                "prepare.reworded_by=[runs/en-zh,runs/zh-en]",
            )
        if sources_by is not None or targets is not None:
            raise InputError("prepare.reworded_by and prepare.sources_by are two ways to go: name one")
        there, back = (resolve(str(run), "use") for run in by)
        return with_reworded(
            source,
            there=_translator(there, "prepare.reworded_by"),
            back=_translator(back, "prepare.reworded_by"),
            key=[sha256_file(there), sha256_file(back)],
        )
    if sources_by is None or targets is None:
        raise InputError(
            "prepare.sources_by, a run that translates backwards, and prepare.targets, a file of texts, go together"
        )
    run = resolve(str(sources_by), "use")
    return with_synthetic_pairs(
        source,
        targets=Path(str(targets)),
        translate=_translator(run, "prepare.sources_by"),
        key=sha256_file(run),
    )


def _translator(run: Path, named: str) -> Translate:
    """The run as a function, read when it is first asked: what has been translated needs neither it nor torch."""
    known: list[Translate] = []

    def translate(texts: list[str]) -> list[str]:
        if not known:
            from llmcli.translators import translator

            known.append(translator(run, named=named))
        return known[0](texts)

    return translate
