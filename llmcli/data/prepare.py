"""Records -> cleaning -> tokenizer -> shards in the cache, once for each combination.

A prepared folder holds manifest.json, tokenizer/ and the shards of every split: tokens of running text, or examples. It
appears under its final name only when whole; a process that is stopped leaves a temporary folder, with which the next
one goes on (`llmcli.data.build`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llmcli import files
from llmcli.data.build import Build, Train, dtype_of
from llmcli.data.cache import cache_root, digest
from llmcli.data.cleaning import Cleaning
from llmcli.data.columns import ShorterError
from llmcli.data.duplicates import Duplicates
from llmcli.data.examples import Examples
from llmcli.data.records import Text, TextPair
from llmcli.data.shards import ShardFile, TokenShards
from llmcli.data.source import Clean, Report, Source, TextSource
from llmcli.data.workers import WorkerLostError, Workers, cores
from llmcli.errors import CheckpointError, InputError, LLMError
from llmcli.text.segment.base import Segmenter
from llmcli.tokenizers import store
from llmcli.tokenizers.base import Tokenizer

FORMAT = 6
_ABANDONED = 7 * 24 * 3600  # seconds after which nobody will continue

_OTHER_RECORDS = "llm data list names what each data set holds, llm train --help the tasks"


@dataclass(frozen=True)
class Prepared:
    """A prepared folder. `fresh`: it was made by this call, not found."""

    path: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    fresh: bool

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.manifest["splits"])

    def split(self, name: str) -> TokenShards:
        """The tokens of running text. Raises InputError for a split that is not there, and for other records."""
        stats = self._stats(name)
        if self.record != Text.__name__:
            raise InputError(f"this data holds {self.record} records, not running text", _OTHER_RECORDS)
        files = [
            ShardFile(self.path / shard["ids"], self.path / shard["ends"], shard["tokens"], shard["documents"])
            for shard in stats["shards"]
        ]
        return TokenShards(files, self.manifest["dtype"])

    def examples(self, name: str) -> Examples:
        """The records of a split. Raises InputError for a split that the data does not have, and for running text."""
        stats = self._stats(name)
        if self.record == Text.__name__:
            raise InputError("this data holds running text, not examples", _OTHER_RECORDS)
        return Examples(self.path, self.record, stats["files"], self.manifest["dtype"])

    @property
    def record(self) -> str:
        """The class name of its records: "Text", "LabeledText", ..."""
        return str(self.manifest["record"])

    @property
    def names(self) -> tuple[str, ...]:
        """The labels or tags of the train split, in alphabetical order."""
        return tuple(self.manifest["splits"].get("train", {}).get("names", {}))

    def _stats(self, name: str) -> dict[str, Any]:
        if name not in self.manifest["splits"]:
            raise InputError(f"the data has no {name} split; it has: {', '.join(self.splits)}")
        stats: dict[str, Any] = self.manifest["splits"][name]
        return stats

    def count(self, what: str, split: str | None = None) -> int:
        """Total "tokens", "documents", "bytes" (UTF-8), "characters" or "unknown" ids of a split, or of all."""
        return sum(self.manifest["splits"][name][what] for name in ([split] if split else self.splits))

    def describe(self) -> str:
        """Like "8,430 documents, 2.2 MB (Python 3.11.7, sha 3fa9…)"."""
        documents, size = self.count("documents"), self.count("bytes")
        what = "document" if self.record == Text.__name__ else "example"
        plural = "" if documents == 1 else "s"
        origin = f"{self.manifest['origin']}, sha {self.manifest['content'][:4]}…"
        without = "".join(f", {count:,} {reason} left out" for reason, count in self.manifest["left_out"].items())
        return f"{documents:,} {what}{plural}, {_human(size)} ({origin}){without}"

    def verify(self) -> None:
        """Read every shard and compare it with its hash. Raises InputError for the first that differs."""
        for split in self.manifest["splits"].values():
            written = [(file["path"], file["sha256"]) for file in split.get("files", {}).values()]
            for shard in split.get("shards", ()):
                written += [(shard["ids"], shard["ids_sha256"]), (shard["ends"], shard["ends_sha256"])]
            for name, expected in written:
                with (self.path / name).open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != expected:
                    raise _damaged(self.path, f"{self.path / name} is not what was written")


def prepare(
    source: Source[Any],
    *,
    clean: Mapping[str, Clean] | None = None,
    duplicates: Duplicates | None = None,
    tokenizer: Tokenizer | Train,
    tokenizer_key: Mapping[str, Any],
    separate: bool = False,
    cache_dir: Path | None = None,
    workers: int | None = None,
    report: Report | None = None,
) -> Prepared:
    """The source's splits as token shards, made now or found in the cache.

    clean: steps applied to every text in their order, before the tokenizer sees it; None from one drops the record.
    duplicates: what train loses of what stands twice after cleaning; None keeps all and counts nothing.
    tokenizer: one that exists, or a function that trains one on the train split's text (it may iterate it
    several times). tokenizer_key: the plain config of that function; not used with one that exists. separate: that
    function trains one on the sources of pairs and one on the targets.
    cache_dir: None is the user's cache. Two processes that want the same data at once do the work once; one that was
    stopped is continued by the next. workers: processes that clean and encode, None is one for each core; the result
    is the same with any number.

    Raises InputError for a split without text, for damaged prepared data, and where records that are no pairs would
    have two vocabularies, LLMError when the disk is full or a
    worker process was killed.
    """
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise InputError(f"prepare.workers ({workers}) must be a whole number from 1, or null for all cores")
    given = tokenizer if isinstance(tokenizer, Tokenizer) else None
    if source.record is not TextPair and (separate if given is None else given.of_sources is not given):
        raise InputError(
            f"sources and targets of pairs can have a vocabulary each; this data holds {source.record.__name__}s",
            "prepare.separate=false" if given is None else "a run with one vocabulary",
        )
    report, cleaning = report or _silent, Cleaning(clean or {})
    source.obtain(report)
    fingerprint = source.fingerprint()
    wanted = {
        "format": FORMAT,
        "record": source.record.__name__,
        "source": fingerprint,
        "splits": list(source.splits),
        "clean": cleaning.key(),
        "duplicates": duplicates and duplicates.settings(),
        "eos": isinstance(source, TextSource) and source.eos,
        "tokenizer": (
            store.fingerprint(tokenizer) if isinstance(tokenizer, Tokenizer) else _train_key(tokenizer, tokenizer_key)
        ),
    }
    if separate and given is None:
        wanted["separate"] = True
    key = digest(wanted)
    root = (cache_dir or cache_root()) / "prepared"
    folder = root / key[:24]
    if (folder / "manifest.json").is_file():
        return _load(folder, given, fresh=False)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{folder.name}.lock"):
        if (folder / "manifest.json").is_file():  # another process was quicker
            return _load(folder, given, fresh=False)
        temporary = root / f"{folder.name}.tmp"
        shutil.rmtree(folder, ignore_errors=True)  # not whole, and nobody else writes under this lock
        _forget_abandoned(root, but=temporary)
        try:
            for left in (True, False):  # of a process that was stopped
                with Workers(cores() if workers is None else workers) as pool:
                    build = Build(
                        temporary, source, cleaning=cleaning, duplicates=duplicates, workers=pool, report=report
                    )
                    try:
                        manifest = {**wanted, "key": key, "content": digest(fingerprint)}
                        _write(build, tokenizer, manifest, separate=separate)
                        break
                    except (ShorterError, CheckpointError):
                        shutil.rmtree(temporary)
                        if not left:
                            raise
            files.sync_folder(temporary)
            temporary.rename(folder)
            files.sync_folder(root)
        except OSError as err:
            shutil.rmtree(temporary, ignore_errors=True)
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise LLMError(f"no space left in {root}", "LLM_CACHE=FOLDER puts prepared data elsewhere") from err
            raise
        except WorkerLostError:  # what is done is kept, as it is when the process is stopped
            raise
        except Exception:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return _load(folder, given, fresh=True)


def _write(build: Build, tokenizer: Tokenizer | Train, manifest: dict[str, Any], *, separate: bool) -> None:
    source = build.source
    build.clean()
    if not isinstance(tokenizer, Tokenizer) and "train" in source.splits and build.empty("train"):
        raise _no_text("train", build)
    try:
        tokenizer = build.tokenizer(tokenizer, separate=separate)
    except InputError as err:
        if "train" in source.splits and build.left("train")[1] == 0:  # nothing was there to learn from
            raise _no_text("train", build) from err
        raise
    if manifest["eos"] and tokenizer.eos_id is None:
        raise InputError("data.eos is on, but this tokenizer has no end-of-text token", "data.eos=false")
    splits: dict[str, Any] = {}
    for split in source.splits:
        splits[split] = build.encode(split, tokenizer, eos=bool(manifest["eos"]))
        if source.record is not Text:
            _check_names(splits, split, source)
        if not splits[split]["characters"]:
            raise _no_text(split, build)
    manifest |= {
        "origin": source.describe(),
        "dtype": dtype_of(tokenizer),
        "tokenizer_sha256": store.fingerprint(tokenizer),
        "splits": splits,
        "copies": build.copies(),
        "left_out": source.left_out,
    }
    build.tidy()
    files.write_atomic(build.folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def _forget_abandoned(root: Path, but: Path) -> None:
    """Remove what was left a week ago and not continued."""
    for folder in root.glob("*.tmp"):
        if folder == but or time.time() - folder.stat().st_mtime < _ABANDONED:
            continue
        with contextlib.suppress(Timeout), FileLock(folder.with_suffix(".lock"), timeout=0):
            shutil.rmtree(folder, ignore_errors=True)


def _check_names(splits: Mapping[str, Any], split: str, source: Source[Any]) -> None:
    unseen = sorted(set(splits[split]["names"]) - set(splits["train"]["names"])) if "train" in splits else []
    if unseen:
        count = sum(splits[split]["names"][name] for name in unseen)
        raise InputError(
            f"the {split} split has {unseen[0]!r} ({count:,} times{' with others' if len(unseen) > 1 else ''}), "
            "which the train split never has",
            "data.unseen_labels=skip goes by the labels as they are read, and cleaning or duplicates took all examples "
            "of this one from train: another clean= or duplicates="
            if getattr(source, "unseen_labels", "") == "skip"
            else "data.unseen_labels=skip leaves such examples out",
        )


def _load(folder: Path, given: Tokenizer | None, *, fresh: bool) -> Prepared:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        tokenizer = given or store.load(folder / "tokenizer")
        whole = store.fingerprint(tokenizer) == manifest["tokenizer_sha256"]
    except (json.JSONDecodeError, KeyError, CheckpointError) as err:
        raise _damaged(folder, str(err)) from err
    if not whole:
        raise _damaged(folder, "the tokenizer has changed")
    prepared = Prepared(folder, manifest, tokenizer, fresh)
    for split in prepared.splits:
        # checks sizes
        _ = prepared.split(split) if prepared.record == Text.__name__ else prepared.examples(split)
    return prepared


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(f"prepared data is damaged: {what}", f"delete {folder}; the next run prepares it again")


def _train_key(train: Train, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a tokenizer follows from besides the text: its config, and of a file that this names what it holds."""
    key = dict(settings)
    while isinstance(train, partial):
        key |= {name: value.state() for name, value in train.keywords.items() if isinstance(value, Segmenter)}
        train = train.func
    return key


def _no_text(split: str, build: Build) -> InputError:
    source = build.source
    if all(next(iter(source.records(name)), None) is None for name in source.splits):
        return InputError(f"there is no text in {source.describe()}: every file is empty", "look at data.path")
    what = "documents" if source.record is Text else "examples"
    read = sum(getattr(record, "end", True) for record in source.records(split))
    if read:
        cleaned, kept = build.left(split)
        if kept:
            return InputError(f"the {kept:,} {what} of the {split} split hold no text", "look at data.path")
        return InputError(
            f"nothing is left of the {split} split: of {read:,} {what} cleaning dropped {read - cleaned:,} and "
            f"duplicates {cleaned - kept:,}",
            "other steps in clean=, or duplicates= that keep them" if cleaned - kept else "other steps in clean=",
        )
    if split in getattr(source, "own_splits", ()):
        without = "".join(f", {count:,} {reason} left out" for reason, count in source.left_out.items())
        return InputError(f"there are no {what} in the {split} split{without}", "look at data.path")
    if source.record is Text:
        what, way_out = "document", "use more text, or data.split=position, which takes val and test from its end"
    else:
        what, way_out = "example", f"use more of them, or a larger data.{split}_fraction"
    return InputError(f"no {what} fell into the {split} split: there are too few to deal out", way_out)


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _silent(stage: str, done: float, total: float) -> None:
    pass
