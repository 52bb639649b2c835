"""Score a run on a split: every token once, on the device, read at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from llmcli import config as configs
from llmcli import ui
from llmcli.assembly import batches
from llmcli.checkpoint import Loaded
from llmcli.data.cache import digest
from llmcli.data.prepare import Prepared
from llmcli.data.source import Source
from llmcli.errors import InputError
from llmcli.floor import ngram_floor
from llmcli.preparation import prepare_as, prepare_data
from llmcli.tasks.base import Task, figures
from llmcli.trainer import accelerator_of

ALL = "all"  # instead of a split: all of a text given with data=


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


@torch.inference_mode()
def evaluate(
    task: Task,
    batches: Iterable[dict[str, Any]],
    *,
    device: torch.device,
    text: dict[str, float],
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """The task's metrics over all batches.

    text: the amounts of text that the targets stand for, e.g. {"bytes": ..., "characters": ...}. on_batch is called
    with the number of targets scored so far.
    """
    task.to(device).eval()
    task.on_validation_epoch_start()
    metrics, scored = task.metrics(), 0
    for batch in batches:
        scored += task.accumulate(metrics, to_device(batch, device))
        if on_batch is not None:
            on_batch(scored)
    for metric in metrics:
        metric.update(text)
    return figures(metrics)


def score(
    loaded: Loaded,
    *,
    data: DictConfig | None,
    split: str | None,
    stride: int | None,
    batch_size: int | None,
    accelerator: str,
    progress: bool,
) -> dict[str, Any]:
    """Figures of a loaded run on `split`, of `data` where given (tokenized with the run's own tokenizer).

    split None: val; of a `data` that is split by fractions ALL of it, unless it is the very files that the run was
    trained on: then the run's own val. stride: tokens between overlapping windows; None: windows side by side. Raises
    InputError for an unknown split, and where the run's own data has changed.
    """
    if data is None:
        split = split or "val"
        prepared = _own(loaded, OmegaConf.create(loaded.config))
    else:
        configs.validate(OmegaConf.create({"data": data}))
        prepared, split = _other(loaded, data, split)
    if split not in prepared.splits:
        raise InputError(f"there is no split {split!r}", f"this data has: {', '.join(prepared.splits)}")
    saved = OmegaConf.create(loaded.config)
    module = batches(saved, prepared, loaded.task, trusted=loaded.trusted)
    loader = module.eval_loader(split, stride=stride, size=batch_size)
    kind, _ = accelerator_of(accelerator, 1, key="accelerator")
    stats = prepared.manifest["splits"][split]
    with ui.Meter() as meter:
        found: dict[str, Any] = evaluate(
            loaded.task,
            loader,
            device=torch.device(kind),
            text={unit: float(stats[unit]) for unit in ("bytes", "characters")},
            on_batch=(lambda n: meter("evaluating", n, stats["tokens"])) if progress else None,
        )
    own = prepared.manifest["content"] == digest(loaded.content["llm"]["data"]["fingerprint"])
    if loaded.task.next_token and own and split != "train":  # of the counted text itself it would be no floor
        found["floor_loss"] = ngram_floor(prepared, split)
    whole = prepared.splits == (split,) == ("train",)
    found.update(split=ALL if whole else split, tokens=stats["tokens"], unknown=stats.get("unknown", 0))
    return found


def _own(loaded: Loaded, cfg: DictConfig) -> Prepared:
    return prepare_as(
        cfg,
        loaded.tokenizer,
        loaded.content["llm"]["data"]["fingerprint"],
        trusted=loaded.trusted,
        otherwise="data=... scores other text on purpose; put the old files back to score what the run knows",
    )


def _other(loaded: Loaded, data: DictConfig, split: str | None) -> tuple[Prepared, str]:
    """Data that the user named, and which split of it. Its source is the user's, all else comes from the checkpoint."""
    cfg = OmegaConf.create(loaded.config)
    source: Source[Any] = configs.build(data)
    _check_record(loaded, source)
    whole = _undivided(data)
    if split == ALL and whole is None:
        raise InputError(f"there is no split {ALL!r}: this data comes in splits", "split=val or another of them")
    if split is None and "val_fraction" in data:
        with ui.Meter() as meter:
            source.obtain(meter)
        if _same_records(source.fingerprint(), loaded.content["llm"]["data"]["fingerprint"]):
            ui.say("data", "the text that the run was trained on: its own val split is scored")
            if "path" in cfg.data and data.get("path") is not None:
                cfg.data.path = data.path
            return _own(loaded, cfg), "val"
        split = None if whole is None else ALL
    if split == ALL and whole is not None:
        source, split = whole, "train"
    cfg.duplicates = None  # text to score stays whole
    return prepare_data(cfg, loaded.tokenizer, trusted=loaded.trusted, source=source), split or "val"


def _undivided(data: DictConfig) -> Source[Any] | None:
    """All of a text as its train split; None of data that comes in splits."""
    if "val_fraction" not in data:
        return None
    source: Source[Any] = configs.build(OmegaConf.merge(data, {"val_fraction": 0.0, "test_fraction": 0.0}))
    return source if source.splits == ("train",) else None


def _check_record(loaded: Loaded, source: Source[Any]) -> None:
    kind, takes = source.record.__name__, loaded.task.takes
    if kind not in takes:
        raise InputError(f"this data holds {kind} records; the run's task learnt from {' or '.join(takes)}")


def _same_records(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sources have the same files and, where a reader makes records of them, read them in the same way."""
    files = _files(one)
    readers = [None if isinstance(each.get("reader"), str) else digest(each.get("reader")) for each in (one, other)]
    return files is not None and files == _files(other) and readers[0] == readers[1]


def _files(fingerprint: Mapping[str, Any]) -> list[str] | None:
    """The hashes of the files that a text is made of, None where its reader does not say."""
    found = fingerprint.get("files", fingerprint.get("file"))
    if found is None:
        return None
    hashes = found.values() if isinstance(found, dict) else [found] if isinstance(found, str) else found
    return sorted(map(str, hashes))
