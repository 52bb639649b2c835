"""From a composed config to prepared data: shards or examples in the cache, made now or found there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmcli import config as configs
from llmcli import ui
from llmcli.data import translated
from llmcli.data.cache import digest
from llmcli.data.prepare import Prepared, prepare
from llmcli.data.records import Text
from llmcli.data.singles import Singles
from llmcli.data.source import Source
from llmcli.data.texts import TextsOf
from llmcli.errors import InputError
from llmcli.tokenizers import store
from llmcli.tokenizers.base import Tokenizer
from llmcli.translations import with_translations, without_translations

SECTIONS = ("data", "clean", "duplicates", "tokenizer", "prepare")  # of a config, that preparing needs


def prepare_data(
    cfg: DictConfig,
    tokenizer: Tokenizer | None = None,
    *,
    trusted: tuple[str, ...] | None = None,
    source: Source[Any] | None = None,
) -> Prepared:
    """Read, clean, tokenize and write shards, or find them in the cache.

    tokenizer: one that exists, instead of that of the config. source: of `data` that the user named, which needs no
    trust where the rest of the config does.
    """
    source = _source(cfg, trusted) if source is None else _as_learnt(source, cfg)
    try:
        with ui.Meter(in_bytes=True) as meter:
            return prepare(
                source,
                clean=configs.build(cfg.clean, trusted=trusted),
                duplicates=configs.build(cfg.duplicates, trusted=trusted),
                tokenizer=tokenizer if tokenizer is not None else configs.build(cfg.tokenizer, trusted=trusted),
                tokenizer_key={} if tokenizer is not None else configs.resolved(cfg.tokenizer),
                separate=_separate(cfg),
                workers=OmegaConf.select(cfg, "prepare.workers"),  # runs of earlier versions have no such key
                report=meter,
            )
    except KeyboardInterrupt:
        ui.note("stopped; what is prepared is kept, and the same command goes on from there")
        raise


def prepare_as(
    cfg: DictConfig,
    tokenizer: Tokenizer,
    fingerprint: Mapping[str, Any],
    *,
    trusted: tuple[str, ...],
    otherwise: str,
    to_score: bool = False,
) -> Prepared:
    """The data of a run's config with the run's own tokenizer, from the run's cache entry where it is still there.

    fingerprint: of the source when the run began. Raises InputError where it has changed since, with the way out
    `otherwise`, and where it would have to be downloaded: a config that comes with a file is not asked what to fetch.
    to_score: without what translators added to train, so that a run can be scored where its translators are not.
    """
    if to_score:
        cfg, fingerprint = without_translations(cfg), translated.without(fingerprint)
    source = _source(cfg, trusted)
    if absent := source.missing():
        raise InputError(
            f"the run's data is not on this machine any more: {absent[0]}",
            "llm prepare data=... downloads it, for one whose name you know",
        )
    now = source.fingerprint()
    if digest(now) != digest(fingerprint):
        versions = [each.get("python") for each in (fingerprint, now)]
        which = f": it was the documentation of Python {versions[0]}, this is Python {versions[1]}"
        raise InputError(
            f"the data has changed since the run began{which if versions[0] != versions[1] else ''}", otherwise
        )
    if cfg.get("init") is not None:  # the tokenizer came from another run: there is none to learn
        return prepare_data(cfg, tokenizer, trusted=trusted)
    prepared = prepare_data(cfg, trusted=trusted)
    same = store.fingerprint(prepared.tokenizer) == store.fingerprint(tokenizer)
    return prepared if same else prepare_data(cfg, tokenizer, trusted=trusted)


def _separate(cfg: DictConfig) -> bool:
    separate = OmegaConf.select(cfg, "prepare.separate", default=False)  # runs of earlier versions have no such key
    if not isinstance(separate, bool):
        raise InputError(f"prepare.separate ({separate}) must be true or false")
    return separate


def _source(cfg: DictConfig, trusted: tuple[str, ...] | None) -> Source[Any]:
    source: Source[Any] = configs.build(cfg.data, trusted=trusted)
    chosen = cfg.get("prepare") or {}  # runs of earlier versions lack keys
    as_text = chosen.get("as_text", False)
    if not isinstance(as_text, bool):
        raise InputError(f"prepare.as_text ({as_text}) must be true or false")
    source = with_translations(source, chosen)
    return _as_learnt(TextsOf(source) if as_text else source, cfg)


def _as_learnt(source: Source[Any], cfg: DictConfig) -> Source[Any]:
    """The source, or what its running text is cut into where batches are of examples: the task learns from single
    texts. The batch says so, and not the task, because looking at a task imports torch."""
    examples = str(OmegaConf.select(cfg, "batch._target_", default="")).endswith(".ExampleData")
    if source.record is not Text or not examples:
        return source
    return Singles(source, OmegaConf.select(cfg, "prepare.unit", default="sentence"))
