"""Records from files: the user's own, or published ones that are downloaded once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from llmcli.data.dealing import DealtRecords, SplitBy
from llmcli.data.decode import AUTO, read_as
from llmcli.data.find_files import find, identity
from llmcli.data.open_file import is_archive, members
from llmcli.data.published_files import PublishedFiles
from llmcli.data.reader import Flaw, Reader, options_of
from llmcli.data.records import Record, TextPair
from llmcli.data.source import Report
from llmcli.errors import InputError

SPLITS = ("train", "val", "test")
_SPLIT_NAME = re.compile(r"(?:(train)|(test)|val|valid|validation|dev)(?![a-zA-Z])", re.IGNORECASE)
_ABOUT = re.compile(r"(readme|licen[cs]e|changelog|citation)(\W|$)", re.IGNORECASE)

Paths = dict[str, str | list[str]]


class RecordFiles(DealtRecords):
    """Records that `reader` makes of files.

    path: a file, a glob or a list of them, all of it train; a folder or an archive, in which train.*, val.* (valid,
    validation, dev) and test.* are those splits, and other files are train where there is no train.*; or the paths of
    each split. Listed paths are read in the order of the list. urls, sha256: where the files of each split are
    published, and what they are; `path` is then a folder that holds a copy of them under their own names, None
    downloads them. The other options are those of DealtRecords: what is missing of val and test is dealt from train.

    Raises InputError for paths with nothing to read and for splits of other names.
    """

    def __init__(
        self,
        *,
        reader: Reader,
        path: str | list[str] | Paths | None,
        urls: Paths | None,
        sha256: Paths | None,
        val_fraction: float,
        test_fraction: float,
        stratify: bool,
        seed: int,
        flaws: Literal["error", "skip"],
        unseen_labels: Literal["error", "skip"],
        train_examples: int | None = None,  # runs of earlier versions have no such key
        split_by: SplitBy = "source",
    ) -> None:
        super().__init__(
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            stratify=stratify,
            seed=seed,
            flaws=flaws,
            unseen_labels=unseen_labels,
            train_examples=train_examples,
            split_by=split_by,
        )
        if split_by == "target" and not issubclass(reader.record, TextPair):
            raise InputError(f"data.split_by=target is for pairs of texts; these records are {reader.record.__name__}")
        self.reader, self.record = reader, reader.record
        self._published: PublishedFiles | None = None
        self._files: dict[str, list[Path]] = {}
        for key, given in (("path", path), ("urls", urls)):
            _check_splits(given if isinstance(given, dict) else {}, key)
        if isinstance(path, dict | list):
            given = path if isinstance(path, dict) else {"train": path}
            self._files = {split: _listed(paths, f"data.path.{split}") for split, paths in given.items()}
        elif urls:
            self._published = PublishedFiles(path=path, urls=_lists(urls), sha256=_lists(sha256 or {}))
        elif path is None:
            raise InputError("data.path is needed: what is to be read", "data.path=FILE, FOLDER or 'GLOB'")
        else:
            self._files = _own_files(path)

    @property
    def own_splits(self) -> tuple[str, ...]:
        return self._published.names if self._published else tuple(self._files)

    def obtain(self, report: Report) -> None:
        if self._published:
            self._published.obtain(report)

    def missing(self) -> list[str]:
        return self._published.missing() if self._published else []

    def files(self, own_split: str) -> list[Path]:
        return self._published[own_split] if self._published else self._files[own_split]

    def read(self, own_split: str) -> Iterator[Record | Flaw]:
        return self.reader.read(self.files(own_split))

    def fingerprint(self) -> dict[str, Any]:
        return {
            "reader": options_of(self.reader),
            "files": {name: [identity(file) for file in self.files(name)] for name in self.own_splits},
            **self.dealing(),
        }

    def describe(self) -> str:
        files = [file for name in self.own_splits for file in self.files(name)]
        origin = self._published.origin if self._published else _common_name(files)
        return origin + (read_as(files) if getattr(self.reader, "encoding", "") == AUTO else "")


def _own_files(path: str) -> dict[str, list[Path]]:
    """The files of each split that a path of the user's has."""
    files, place = find(path), Path(path).expanduser()
    if place.is_dir():
        return _by_name(files, place)
    if len(files) == 1 and is_archive(place) and place.is_file():
        inside = _by_name([place / name for name in members(place)], place)
        return inside if inside.keys() != {"train"} else {"train": files}
    return {"train": files}


def _by_name(files: list[Path], place: Path) -> dict[str, list[Path]]:
    """Files by the split that their names, or those of the folders between `place` and them, begin with."""
    found: dict[str, list[Path]] = {"train": [], "val": [], "test": [], "": []}
    for file in files:
        named = filter(None, map(_SPLIT_NAME.match, file.relative_to(place).parts))
        if not _ABOUT.match(file.name):
            split = next(named, None)
            found["" if not split else "train" if split[1] else "test" if split[2] else "val"].append(file)
    others = found.pop("")
    found["train"] = found["train"] or others
    if not any(found.values()):
        raise InputError(f"data.path: {place} holds no files to read")
    return {split: listed for split, listed in found.items() if listed}


def _common_name(files: list[Path]) -> str:
    """Of one file, else of the folder that they are all in, else how many they are."""
    if len(files) == 1:
        return files[0].name
    folders = {file.parent for file in files}
    return folders.pop().name if len(folders) == 1 else f"{len(files):,} files"


def _listed(paths: str | list[str], key: str) -> list[Path]:
    return [file for each in ([paths] if isinstance(paths, str) else paths) for file in find(each, key)]


def _lists(given: Paths) -> dict[str, list[str]]:
    return {name: [each] if isinstance(each, str) else list(each) for name, each in given.items()}


def _check_splits(given: Mapping[str, Any], key: str) -> None:
    for split in given:
        if split not in SPLITS:
            raise InputError(f'data.{key}: there is no split "{split}"', f"the splits are {', '.join(SPLITS)}")
