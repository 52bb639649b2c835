"""A source whose train split also has examples that translators made, once, kept in the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from llmcli import files
from llmcli.data.back_translation import Translate, reworded, synthetic_pairs
from llmcli.data.cache import cache_root, digest, sha256_file
from llmcli.data.records import Record, TextPair, from_plain, to_plain
from llmcli.data.source import Report, Source, Wrapped
from llmcli.errors import InputError

AT_ONCE = 256  # texts that are translated, and written down, together


class WithTranslations(Wrapped[Any]):
    """Another source; what `make` makes of each group of `given` comes after its own records of train.

    key: what `make` and `given` follow from besides the source, in plain values. A process that is stopped leaves what
    it has made to the next one.
    """

    def __init__(
        self,
        source: Source[Any],
        *,
        key: Mapping[str, Any],
        given: Callable[[], Iterator[Any]],
        make: Callable[[list[Any]], Iterator[Record]],
    ) -> None:
        if "train" not in source.splits:
            raise InputError(f"there is no train split to add translations to; there is {', '.join(source.splits)}")
        self.source, self.record, self.key = source, source.record, dict(key)
        self._given, self._make = given, make

    def fingerprint(self) -> dict[str, Any]:
        return {"of": self.source.fingerprint(), "translated": self.key}

    def describe(self) -> str:
        return f"{super().describe()}, {sum(1 for _ in self._made()):,} translations"

    def size(self, split: str) -> int | None:
        return None if split == "train" else super().size(split)

    def records(self, split: str) -> Iterator[Any]:
        own = self.source.records(split)
        return chain(own, self._made()) if split == "train" else own

    def obtain(self, report: Report) -> None:
        super().obtain(report)
        path = self._path()
        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.is_file():  # another process was quicker
                return
            part = path.with_suffix(".part")
            done = _read_so_far(part)
            total = sum(1 for _ in self._given())
            rest = islice(self._given(), done, None)
            with part.open("ab") as out:
                while group := list(islice(rest, AT_ONCE)):
                    made = [to_plain(record) for record in self._make(group)]
                    out.write(json.dumps([len(group), made]).encode("ascii") + b"\n")
                    out.flush()
                    done += len(group)
                    report(f"translating {total:,} texts", done, total)
            part.replace(path)
            files.sync_folder(path.parent)

    def _path(self) -> Path:
        return cache_root() / "translated" / f"{digest([self.record.__name__, self.fingerprint()])[:24]}.jsonl"

    def _made(self) -> Iterator[Record]:
        with self._path().open("rb") as file:
            for line in file:
                for plain in json.loads(line)[1]:
                    yield from_plain(self.record, plain)


def with_reworded(source: Source[Any], *, there: Translate, back: Translate, key: list[str]) -> WithTranslations:
    """Each text of train once more, translated to another language and back (`back_translation.reworded`)."""
    return WithTranslations(
        source,
        key={"reworded_by": key},
        given=lambda: source.records("train"),
        make=lambda group: reworded(group, there=there, back=back, at_once=len(group)),
    )


def with_synthetic_pairs(source: Source[Any], *, targets: Path, translate: Translate, key: str) -> WithTranslations:
    """A pair for each line of a file of texts in the target language (`back_translation.synthetic_pairs`)."""
    if source.record is not TextPair:
        raise InputError(f"prepare.sources_by makes up sources for pairs of texts; this is {source.record.__name__}")
    if not targets.is_file():
        raise InputError(f"prepare.targets: there is no file {targets}", "a file with a text a line, to be translated")
    return WithTranslations(
        source,
        key={"sources_by": key, "targets": sha256_file(targets)},
        given=lambda: _lines(targets),
        make=lambda group: synthetic_pairs(group, translate=translate, at_once=len(group)),
    )


def without(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint of the same source before translations were added to it."""
    if "translated" in fingerprint:
        return dict(fingerprint["of"])
    return {key: without(value) if isinstance(value, Mapping) else value for key, value in fingerprint.items()}


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if "\ufffd" in line:
                raise InputError(f"{path}, line {number}: a broken character", "the file must be UTF-8")
            if text := line.strip():
                yield text


def _read_so_far(part: Path) -> int:
    """How many of the given texts a process that was stopped has dealt with; a line it left unfinished is cut off."""
    done = whole = 0
    if part.is_file():
        with part.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                done += json.loads(line)[0]
                whole += len(line)
        with part.open("rb+") as file:
            file.truncate(whole)
    return done
