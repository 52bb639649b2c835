"""Data sets of Hugging Face, by their name on the hub or from a folder, through the package datasets."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmcli import files
from llmcli.data.cache import cache_root, digest, sha256_file
from llmcli.data.formats.row import Row
from llmcli.errors import InputError, LLMError, require

# the names that splits have there -> ours
SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
_SAVED = ("dataset_dict.json", "state.json")  # what a folder holds that was written by save_to_disk


@dataclass(kw_only=True)
class Hub:
    """One data set. Code that comes with a data set is never run.

    path: a name on the hub, a folder of data files, or one that save_to_disk wrote. subset: which of its parts.
    revision: of the hub; streaming needs one, for it has nothing else that says what the rows are.
    """

    path: str
    subset: str | None
    revision: str | None
    streaming: bool
    _loaded: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.streaming and self.revision is None and not self._local:
            raise InputError("data.streaming needs data.revision", "the commit on the hub that is to be read, say main")

    @property
    def splits(self) -> tuple[str, ...]:
        """Ours that the data set has. A split of another name is train where there is no train."""
        return tuple(self._named)

    def load(self) -> None:
        """Raises InputError where the package is missing or there is no such data set, LLMError when it cannot be
        had."""
        if self._loaded:
            return
        datasets = require("datasets", extra="hf", purpose=f"reading {self.path}")
        try:
            found = self._load(datasets)
        except (ValueError, FileNotFoundError) as err:  # also the package's own kinds
            raise InputError(f"data.path={self.path} cannot be read: {_first(err)}") from err
        except (OSError, RuntimeError, ConnectionError) as err:
            raise LLMError(f"{self.path} could not be had: {_first(err)}", "data.path=FOLDER reads a copy") from err
        self._loaded = dict(found) if isinstance(found, dict) else {"train": found}
        if not self._local:
            files.write_atomic(self._mark, json.dumps(sorted(self._loaded)).encode())

    def missing(self) -> list[str]:
        """What was never loaded on this machine."""
        return [] if self._local or self._mark.is_file() else [f"https://huggingface.co/datasets/{self.path}"]

    def identity(self, split: str) -> list[Any]:
        """What the rows of a split follow from."""
        if self.streaming and not self._local:
            return [self.path, self.subset, self.revision, split]
        table = self._named[split]
        held = [Path(each["filename"]) for each in getattr(table, "cache_files", [])]
        if held:
            return [sha256_file(file) for file in held]
        if self.streaming:
            return [sha256_file(file) for file in sorted(Path(self.path).rglob("*")) if file.is_file()]
        return [table._fingerprint]

    def rows(self, split: str) -> Iterator[Row]:
        """The rows, with the names of classes for their numbers."""
        table = self._named[split]
        names = {column: name for column, feature in (table.features or {}).items() if (name := _class_name(feature))}
        for number, row in enumerate(table, start=1):
            for column, name in names.items():
                row[column] = name(row[column])
            yield Row(f"{self.path}, {split} row {number:,}", row)

    @property
    def _local(self) -> bool:
        return Path(self.path).expanduser().is_dir()

    @property
    def _mark(self) -> Path:
        """A file that stands for the user's wish to load this one here, once."""
        return cache_root() / "hub" / f"{digest([self.path, self.subset, self.revision])[:24]}.json"

    @property
    def _named(self) -> dict[str, Any]:
        self.load()
        named = {SPLITS[name]: table for name, table in self._loaded.items() if name in SPLITS}
        if len(self._loaded) == 1 and not named:
            return {"train": next(iter(self._loaded.values()))}
        if not named:
            raise InputError(f"{self.path} has no train split; it has: {', '.join(self._loaded)}")
        return {split: named[split] for split in ("train", "val", "test") if split in named}

    def _load(self, datasets: Any) -> Any:
        place = Path(self.path).expanduser()
        if any((place / name).is_file() for name in _SAVED):
            return datasets.load_from_disk(str(place))
        options = {"streaming": self.streaming, "revision": self.revision}
        if "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters:  # older ones ask, or run it
            options["trust_remote_code"] = False
        return datasets.load_dataset(str(place) if self._local else self.path, self.subset, **options)


def _class_name(feature: Any) -> Any:
    """From a class id, or a list of them, to names; None for a column without classes."""
    if hasattr(feature, "int2str"):
        return lambda value: feature.int2str(value) if isinstance(value, int) and value >= 0 else None
    inner: Any = getattr(feature, "feature", None)
    if hasattr(inner, "int2str"):
        return lambda values: [inner.int2str(value) for value in values]
    return None


def _first(err: BaseException) -> str:
    return next(iter(str(err).splitlines()), "") or type(err).__name__
