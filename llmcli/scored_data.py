"""Which split of which data a run is scored on: its own, or what the user names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from llmcli import config as configs
from llmcli import ui
from llmcli.checkpoint import Loaded
from llmcli.data.cache import digest
from llmcli.data.duplicates import leaked
from llmcli.data.known_labels import KnownLabels
from llmcli.data.prepare import Prepared
from llmcli.data.records import Text
from llmcli.data.source import Source
from llmcli.errors import InputError
from llmcli.preparation import prepare_as, prepare_data

ALL = "all"  # instead of a split: all of a text given with data=


@dataclass(frozen=True)
class Scored:
    """The split of the data that is scored. own: it is the run's own data."""

    prepared: Prepared
    split: str
    own: bool

    @property
    def examples(self) -> bool:
        return self.prepared.record != Text.__name__

    @property
    def count(self) -> int:
        """How many examples or documents it has."""
        return self.prepared.count("documents", self.split)

    def leaked(self) -> list[int]:
        """The numbers of its examples that stand in the train split too, as that was kept for the run."""
        seen = self.prepared.manifest["copies"].get("seen", {})
        if not self.own or self.split == "train" or not seen.get(self.split):
            return []
        return leaked(self.prepared.examples(self.split), self.prepared.examples("train"))

    @property
    def about(self) -> dict[str, Any]:
        """What it is, in plain values; a text without splits is all one."""
        manifest = self.prepared.manifest
        whole = self.prepared.splits == (self.split,) == ("train",)
        return {
            "data": manifest["content"],
            "origin": manifest["origin"],
            "split": ALL if whole else self.split,
        }


def with_scorer(loaded: Loaded, data: DictConfig | None) -> Loaded:
    """The run, or what its task scores records of another kind with: a language model can choose between texts."""
    if data is None or not hasattr(loaded.task, "scorer"):
        return loaded
    configs.validate(OmegaConf.create({"data": data}))
    kind = configs.build(data).record.__name__
    scorer = None if kind in loaded.task.takes else loaded.task.scorer(kind)
    if scorer is None:
        return loaded
    batch = {**configs.resolved(configs.compose("train", ["batch=examples"]).batch)}
    batch["seq_len"] = loaded.config["batch"]["seq_len"]
    return replace(loaded, task=scorer, config={**loaded.config, "batch": batch})


def find_data(loaded: Loaded, data: DictConfig | None, split: str | None) -> Scored:
    """The split of the run's own data, or of `data`; see `evaluation.score` for what they may be."""
    if data is None:
        split = split or "val"
        prepared = _own(loaded, OmegaConf.create(loaded.config))
    else:
        configs.validate(OmegaConf.create({"data": data}))
        prepared, split = _other(loaded, data, split)
    if split not in prepared.splits:
        raise InputError(f"there is no split {split!r}", f"this data has: {', '.join(prepared.splits)}")
    own = prepared.manifest["content"] == digest(loaded.content["llm"]["data"]["fingerprint"])
    _check_labels(prepared, split, loaded)
    return Scored(prepared, split, own)


def _check_labels(prepared: Prepared, split: str, loaded: Loaded) -> None:
    """Raises InputError where the split has labels that the run's head does not know."""
    known: list[str] = loaded.config.get("facts", {}).get("names") or []
    found: dict[str, int] = prepared.manifest["splits"][split].get("names", {})
    unseen = [name for name in found if name not in known]
    if not known or not unseen:
        return
    hint = f"its labels: {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
    if len(unseen) == len(found):
        raise InputError(
            f"the run was trained on other labels: none of those in this data is among its own, the first is "
            f"{unseen[0][:40]!r}",
            f"{hint}; a head for these is learned by llm train data=... init=RUN",
        )
    raise InputError(
        f"the run was not trained on the label {unseen[0][:40]!r}, which this data has {found[unseen[0]]:,} times"
        f"{f', nor on {len(unseen) - 1:,} others' if len(unseen) > 1 else ''}",
        f"{hint}; data.unseen_labels=skip leaves such examples out",
    )


def _own(loaded: Loaded, cfg: DictConfig) -> Prepared:
    return prepare_as(
        cfg,
        loaded.tokenizer,
        loaded.content["llm"]["data"]["fingerprint"],
        trusted=loaded.trusted,
        otherwise="data=... scores other text on purpose; put the old files back to score what the run knows",
        to_score=True,
    )


def _other(loaded: Loaded, data: DictConfig, split: str | None) -> tuple[Prepared, str]:
    """Data that the user named, and which split of it. Its source is the user's, all else comes from the checkpoint."""
    cfg = OmegaConf.create(loaded.config)
    source: Source[Any] = configs.build(data)
    _check_record(loaded, source)
    names = loaded.config.get("facts", {}).get("names") or []
    skip = names and data.get("unseen_labels") == "skip"
    if skip:  # by the labels of the run, not by those of the data's own train split
        data = cast(DictConfig, OmegaConf.merge(data, {"unseen_labels": "error"}))
        source = configs.build(data)
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
    split = split or "val"
    if skip:
        source = KnownLabels(source, split=split, names=names)
    cfg.duplicates = None  # text to score stays whole
    prepared = prepare_data(cfg, loaded.tokenizer, trusted=loaded.trusted, source=source)
    for reason, count in prepared.manifest["left_out"].items():
        ui.warn(f"{count:,} examples are left out: {reason}")
    return prepared, split


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
