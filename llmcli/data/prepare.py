"""Documents -> cleaning -> tokenizer -> token shards in the cache, once for each combination.

A prepared folder holds manifest.json, tokenizer/ and the shards of every split. It appears under its final
name only when whole, so a process that is killed leaves at most a temporary folder, which the next one
removes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from llmcli import files
from llmcli.data.cache import cache_root, digest
from llmcli.data.records import Text
from llmcli.data.shards import ShardFile, TokenShards, id_dtype
from llmcli.data.source import Report, TextSource
from llmcli.errors import CheckpointError, InputError, LLMError
from llmcli.tokenizers import store
from llmcli.tokenizers.base import Tokenizer

FORMAT = 1
SHARD_BYTES = 512 << 20
# what is encoded at once: enough to keep a tokenizer busy, little enough to keep memory flat
CHUNK_CHARACTERS = 1 << 19
CHUNK_PIECES = 4096

Train = Callable[[Iterable[str]], Tokenizer]


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
        """Raises InputError for a split that the data does not have."""
        if name not in self.manifest["splits"]:
            raise InputError(f"the data has no {name} split; it has: {', '.join(self.splits)}")
        files = [
            ShardFile(self.path / shard["ids"], self.path / shard["ends"], shard["tokens"], shard["documents"])
            for shard in self.manifest["splits"][name]["shards"]
        ]
        return TokenShards(files, self.manifest["dtype"])

    def count(self, what: str, split: str | None = None) -> int:
        """Total "tokens", "documents", "bytes" (UTF-8), "characters" or "unknown" ids of a split, or of all."""
        return sum(self.manifest["splits"][name][what] for name in ([split] if split else self.splits))

    def describe(self) -> str:
        """Like "8,430 documents, 2.2 MB (Python 3.11.7, sha 3fa9…)"."""
        documents, size = self.count("documents"), self.count("bytes")
        plural = "" if documents == 1 else "s"
        origin = f"{self.manifest['origin']}, sha {self.manifest['content'][:4]}…"
        return f"{documents:,} document{plural}, {_human(size)} ({origin})"

    def verify(self) -> None:
        """Read every shard and compare it with its hash. Raises InputError for the first that differs."""
        for split in self.manifest["splits"].values():
            for shard in split["shards"]:
                for name, expected in (
                    (shard["ids"], shard["ids_sha256"]),
                    (shard["ends"], shard["ends_sha256"]),
                ):
                    with (self.path / name).open("rb") as file:
                        found = hashlib.file_digest(file, "sha256").hexdigest()
                    if found != expected:
                        raise _damaged(self.path, f"{self.path / name} is not what was written")


def prepare(
    source: TextSource,
    *,
    tokenizer: Tokenizer | Train,
    tokenizer_key: Mapping[str, Any],
    cache_dir: Path | None = None,
    report: Report | None = None,
) -> Prepared:
    """The source's splits as token shards, made now or found in the cache.

    tokenizer: one that exists, or a function that trains one on the train split's text (it may iterate it
    several times). tokenizer_key: the plain config of that function; not used with one that exists.
    cache_dir: None is the user's cache. Two processes that want the same data at once do the work once.

    Raises InputError for a split without text and for damaged prepared data, LLMError when the disk is full.
    """
    report = report or _silent
    source.obtain(report)
    fingerprint = source.fingerprint()
    wanted = {
        "format": FORMAT,
        "source": fingerprint,
        "splits": list(source.splits),
        "clean": [_step_key(step) for step in source.clean],
        "eos": source.eos,
        "tokenizer": store.fingerprint(tokenizer) if isinstance(tokenizer, Tokenizer) else dict(tokenizer_key),
    }
    key = digest(wanted)
    root = (cache_dir or cache_root()) / "prepared"
    folder = root / key[:24]
    given = tokenizer if isinstance(tokenizer, Tokenizer) else None
    if (folder / "manifest.json").is_file():
        return _load(folder, given, fresh=False)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{folder.name}.lock"):
        if (folder / "manifest.json").is_file():  # another process was quicker
            return _load(folder, given, fresh=False)
        temporary = root / f"{folder.name}.tmp"
        for left in (temporary, folder):  # of a process that was killed; nobody else writes under this lock
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir()
        try:
            _write(source, tokenizer, temporary, {**wanted, "key": key, "content": digest(fingerprint)}, report)
            files.sync_folder(temporary)
            temporary.rename(folder)
            files.sync_folder(root)
        except OSError as err:
            shutil.rmtree(temporary, ignore_errors=True)
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise LLMError(f"no space left in {root}", "LLM_CACHE=FOLDER puts prepared data elsewhere") from err
            raise
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return _load(folder, given, fresh=True)


class _Texts:
    """The cleaned text of a split, which can be iterated again and again."""

    def __init__(self, source: TextSource, split: str, report: Report) -> None:
        self.source, self.split, self.report = source, split, report

    def __iter__(self) -> Iterator[str]:
        seen = 0
        for document in _cleaned(self.source, self.split):
            seen += len(document.text)
            self.report("tokenizer", seen, 0)
            yield document.text


def _cleaned(source: TextSource, split: str) -> Iterator[Text]:
    for document in source.documents(split):
        text = document.text
        for step in source.clean:
            text = step(text)
        yield Text(text, document.end)


def _write(
    source: TextSource, tokenizer: Tokenizer | Train, folder: Path, manifest: dict[str, Any], report: Report
) -> None:
    if not isinstance(tokenizer, Tokenizer):
        if next(iter(source.documents("train")), None) is None:
            raise _no_text("train", source)
        tokenizer = tokenizer(_Texts(source, "train", report))
    if source.eos and tokenizer.eos_id is None:
        raise InputError("data.eos is on, but this tokenizer has no end-of-text token", "data.eos=false")
    (folder / "tokenizer").mkdir()
    for name, content in store.to_files(tokenizer).items():
        files.write_atomic(folder / "tokenizer" / name, content)
    manifest |= {
        "origin": source.describe(),
        "dtype": id_dtype(tokenizer.vocab_size),
        "tokenizer_sha256": store.fingerprint(tokenizer),
        "splits": {split: _encode(source, split, tokenizer, folder, report) for split in source.splits},
    }
    files.write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def _encode(source: TextSource, split: str, tokenizer: Tokenizer, folder: Path, report: Report) -> dict[str, Any]:
    """Write the shards of one split; its counts and shard list, as the manifest has them."""
    counts = {"documents": 0, "tokens": 0, "bytes": 0, "characters": 0, "unknown": 0}
    eos = [tokenizer.eos_id] if source.eos else []
    shards = _Writer(folder, split, np.dtype(id_dtype(tokenizer.vocab_size)))
    with shards:
        for chunk in _chunks(_cleaned(source, split)):
            encoded = tokenizer.encode_batch([piece.text for piece in chunk])
            rows = [[*row, *eos] if piece.end and eos else row for row, piece in zip(encoded, chunk, strict=True)]
            lengths = np.fromiter(map(len, rows), np.int64, len(rows))
            ids = np.fromiter(chain.from_iterable(rows), shards.dtype, int(lengths.sum()))
            ends = np.cumsum(lengths)[[piece.end for piece in chunk]]
            shards.add(ids, ends)
            counts["documents"] += len(ends)
            counts["tokens"] += len(ids)
            counts["bytes"] += sum(_utf8_length(piece.text) for piece in chunk)
            counts["characters"] += sum(len(piece.text) for piece in chunk)
            if tokenizer.unk_id is not None:
                counts["unknown"] += int(np.count_nonzero(ids == tokenizer.unk_id))
            report(f"encode {split}", counts["characters"], 0)
    if not counts["characters"]:
        raise _no_text(split, source)
    return {**counts, "shards": shards.written}


def _chunks(documents: Iterator[Text]) -> Iterator[list[Text]]:
    chunk: list[Text] = []
    size = 0
    for piece in documents:
        chunk.append(piece)
        size += len(piece.text)
        if size >= CHUNK_CHARACTERS or len(chunk) >= CHUNK_PIECES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Writer:
    """Appends ids and document ends, beginning a new shard when one is full."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any]) -> None:
        self.folder, self.split, self.dtype = folder, split, dtype
        self.written: list[dict[str, Any]] = []
        self.tokens = 0  # of the whole split
        self._begin()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._finish()

    def add(self, ids: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> None:
        """ids (n,); ends (m,): the places in `ids` after the last token of each document that ends here."""
        if self._ids.tell() and self._ids.tell() + ids.nbytes > SHARD_BYTES:
            self._finish()
            self._begin()
        _append(self._ids, self._ids_hash, ids)
        _append(self._ends, self._ends_hash, (ends + self.tokens).astype("<u8"))
        self.tokens += len(ids)

    def _begin(self) -> None:
        stem = f"{self.split}-{len(self.written):05d}"
        self._names = {"ids": f"{stem}.ids", "ends": f"{stem}.ends"}
        self._ids = (self.folder / self._names["ids"]).open("wb")
        self._ends = (self.folder / self._names["ends"]).open("wb")
        self._ids_hash, self._ends_hash = hashlib.sha256(), hashlib.sha256()

    def _finish(self) -> None:
        counts = {"tokens": self._ids.tell() // self.dtype.itemsize, "documents": self._ends.tell() // 8}
        for file in (self._ids, self._ends):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        hashes = {"ids_sha256": self._ids_hash.hexdigest(), "ends_sha256": self._ends_hash.hexdigest()}
        self.written.append({**self._names, **counts, **hashes})


def _append(file: IO[bytes], running: Any, values: np.ndarray[Any, Any]) -> None:
    data = values.tobytes()
    file.write(data)
    running.update(data)


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
        prepared.split(split)  # checks sizes
    return prepared


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(f"prepared data is damaged: {what}", f"delete {folder}; the next run prepares it again")


def _step_key(step: Callable[[str], str]) -> list[Any]:
    """What a cleaning step is, in plain values: its name and settings."""
    if isinstance(step, partial):
        return [*_step_key(step.func), list(step.args), step.keywords]
    return [f"{step.__module__}.{step.__qualname__}"]


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _no_text(split: str, source: TextSource) -> InputError:
    if all(next(iter(source.documents(name)), None) is None for name in source.splits):
        return InputError("there is no text: every file is empty", "look at data.path")
    return InputError(
        f"no document fell into the {split} split: there are too few to deal out",
        "use more text, or data.split=position, which takes val and test from its end",
    )


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _silent(stage: str, done: float, total: float) -> None:
    pass
