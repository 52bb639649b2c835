"""Files and members of archives as streams of bytes, decompressed; nothing is written to disk.

A file whose name ends in .gz, .bz2, .xz or .zst is what it was before it was compressed; a .zip or .tar is its members,
one after the other. A member can be named like a file in a folder (corpus.zip/train.csv, corpus.zip/*.csv).
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any

from llmcli.errors import InputError, require

BLOCK = 1 << 20  # bytes
# A file may become so many times larger than it is, and more only up to so many bytes: text shrinks to a tenth or
# a hundredth, what is made to fill a machine to a thousandth or a millionth.
MOST_EXPANSION = 200
EXPANSION_VARIABLE = "LLM_MAX_EXPANSION"
HARMLESS_BYTES = 1 << 30

_SHORT = {".tgz": (".tar", ".gz"), ".tbz2": (".tar", ".bz2"), ".txz": (".tar", ".xz"), ".tzst": (".tar", ".zst")}
_ARCHIVES = (".zip", ".tar")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_ZSTD_STEP = 1 << 10  # bytes of input at a time, each of which may become 128 MB


@dataclass(frozen=True)
class Content:
    """What one file, or one member of an archive, holds.

    name: for messages. suffix: what it is, like ".csv", without that of a compression. stream: its bytes, to be read
    before the next content is asked for. path: of the file, where its bytes lie there as they are.
    """

    name: str
    suffix: str
    stream: IO[bytes]
    path: Path | None = None

    def whole(self, limit: int) -> bytes:
        """All of it in memory. Raises InputError where it has more than `limit` bytes."""
        data = self.stream.read(limit + 1)
        if len(data) > limit:
            raise InputError(f"{self.name} has more than {limit:,} bytes, which is what is read of such a file at once")
        return data


def contents(files: Sequence[Path]) -> Iterator[Content]:
    """The contents of files and archives in their order, hidden members left out.

    Members of one archive that follow each other in `files` are found in one pass, in the order of the archive.
    Raises InputError naming a file that is damaged, cut short, protected, or grows without measure.
    """
    for (file, inside), group in groupby(files, key=_archive_and_kind):
        if not inside and not is_archive(file):
            for path in group:
                yield from _plain(path)
        else:
            patterns = [_pattern(path, file) for path in group]
            yield from _chosen(file, patterns)


def members(archive: Path) -> list[str]:
    """The names of what an archive holds, in its order."""
    return [content.name.removeprefix(f"{archive}/") for content in _members(archive)]


def is_archive(path: Path) -> bool:
    return kind(path.name)[0] in _ARCHIVES


def real_file(path: Path) -> tuple[Path, str]:
    """The file on disk, and what is meant inside it where that is an archive ("" for all of it, or no archive).

    A path that is no file and inside none comes back as it is.
    """
    if not path.is_file():
        for parent in path.parents:
            if parent.is_file() and is_archive(parent):
                return parent, path.relative_to(parent).as_posix()
    return path, ""


def kind(name: str) -> tuple[str, str]:
    """The suffix that says what a file holds, and that of its compression: "a.csv.gz" -> (".csv", ".gz")."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes[-2:]]
    if not suffixes:
        return "", ""
    if suffixes[-1] in _SHORT:
        return _SHORT[suffixes[-1]]
    if suffixes[-1] in _COMPRESSED:
        return "".join(suffixes[:-1]), suffixes[-1]
    return suffixes[-1], ""


def _archive_and_kind(path: Path) -> tuple[Path, bool]:
    file, inside = real_file(path)
    return file, bool(inside)


def _pattern(path: Path, archive: Path) -> str:
    return "*" if path == archive else path.relative_to(archive).as_posix()


def _plain(path: Path) -> Iterator[Content]:
    suffix, compression = kind(path.name)
    with path.open("rb") as raw:
        if compression:
            yield Content(str(path), suffix, _unpacked(raw, compression, Meter.of(path, path)))
        else:
            yield Content(str(path), suffix, raw, path)


def _chosen(archive: Path, patterns: Sequence[str]) -> Iterator[Content]:
    found, names = False, []
    for content in _members(archive):
        name = content.name.removeprefix(f"{archive}/")
        names.append(name)
        if any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns):
            found = True
            yield content
    if not found:
        inside = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
        raise InputError(f"{archive} holds no {', '.join(patterns)}; it holds: {inside}")


def _members(archive: Path) -> Iterator[Content]:
    suffix, compression = kind(archive.name)
    meter = Meter.of(archive, archive)
    with archive.open("rb") as raw:
        packed: IO[bytes] = _unpacked(raw, compression, meter) if compression else raw
        yield from _zip_members(archive, packed, meter) if suffix == ".zip" else _tar_members(archive, packed)


def _zip_members(archive: Path, packed: IO[bytes], meter: Meter) -> Iterator[Content]:
    with translated(str(archive)):
        if not packed.seekable():
            raise InputError(f"{archive}: an archive inside a compressed file is not read", "unpack it first")
        whole = zipfile.ZipFile(packed)
    for info in whole.infolist():
        name = f"{archive}/{info.filename}"
        if info.is_dir() or _hidden(info.filename):
            continue
        with translated(name):
            raw = whole.open(info)
        with raw:
            yield _member(name, io.BufferedReader(_Watched(raw, meter.called(name)), BLOCK), meter)


def _tar_members(archive: Path, packed: IO[bytes]) -> Iterator[Content]:
    with translated(str(archive)):
        whole = tarfile.open(fileobj=packed, mode="r|", bufsize=BLOCK)  # noqa: SIM115  closes nothing of its own
    while True:
        with translated(str(archive)):
            info = whole.next()
        if info is None:
            while packed.read(BLOCK):  # to its end, where its checksum stands
                pass
            return
        if not info.isfile() or _hidden(info.name):
            continue
        name = f"{archive}/{info.name}"
        with translated(name):
            raw = whole.extractfile(info)
        assert raw is not None
        # what a plain tar holds is as large as the file: only what is compressed inside it can grow
        meter = Meter.of(archive, name)
        yield _member(name, io.BufferedReader(_Watched(raw, meter), BLOCK), meter)


def _member(name: str, stream: IO[bytes], meter: Meter) -> Content:
    suffix, compression = kind(name)
    if suffix in _ARCHIVES:
        raise InputError(f"{name}: an archive inside an archive is not read", "unpack the outer one first")
    return Content(name, suffix, _unpacked(stream, compression, meter.called(name)) if compression else stream)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _unpacked(raw: IO[bytes], compression: str, meter: Meter) -> IO[bytes]:
    opened: dict[str, Callable[[IO[bytes]], Any]] = {
        ".gz": lambda file: gzip.GzipFile(fileobj=file),
        ".bz2": bz2.BZ2File,
        ".xz": lzma.LZMAFile,
        ".zst": _Zstandard,
    }
    return io.BufferedReader(_Watched(opened[compression](raw), meter), BLOCK)


class Meter:
    """How many bytes came out of a file so far, and how many may. Shared by the members of an archive."""

    def __init__(self, name: str, size: int, counted: list[int]) -> None:
        self.name, self.size, self.counted = name, size, counted

    @classmethod
    def of(cls, file: Path, name: object) -> Meter:
        return cls.of_size(str(name), file.stat().st_size)

    @classmethod
    def of_size(cls, name: str, size: int) -> Meter:
        return cls(name, size, [0])

    def called(self, name: str) -> Meter:
        return Meter(name, self.size, self.counted)

    def count(self, came: int) -> None:
        self.counted[0] += came
        if self.counted[0] > max(HARMLESS_BYTES, self.size * _most_expansion()):
            raise InputError(
                f"{self.name} grows from {self.size:,} bytes to more than {self.counted[0]:,}: it is not read further",
                f"{EXPANSION_VARIABLE}=NUMBER in the environment allows more than {_most_expansion()} times",
            )


def _most_expansion() -> int:
    given = os.environ.get(EXPANSION_VARIABLE, "").strip() or str(MOST_EXPANSION)
    if not given.isascii() or not given.isdigit():
        raise InputError(f"{EXPANSION_VARIABLE} ({given}) must be a whole number")
    return int(given)


class _Watched(io.RawIOBase):
    """A stream whose errors name the file, and whose bytes are counted."""

    def __init__(self, inner: Any, meter: Meter) -> None:
        self.inner, self.meter = inner, meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with translated(self.meter.name):
            data = self.inner.read(len(buffer))
        self.meter.count(len(data))
        buffer[: len(data)] = data
        return len(data)


class _Zstandard:
    """Frames of Zstandard, one after the other. Its own reader takes a file that is cut short for a whole one."""

    def __init__(self, file: IO[bytes]) -> None:
        self.zstandard = require("zstandard", extra="files", purpose="reading .zst files")
        self.file, self.frame = file, self.zstandard.ZstdDecompressor().decompressobj()
        self.begun = False  # whether the frame at hand has had any input
        self.left, self.ready = b"", io.BytesIO()

    def read(self, size: int) -> bytes:
        while not (data := self.ready.read(size)):
            packed = self.left or self.file.read(_ZSTD_STEP)
            if not packed:
                if self.begun:
                    raise EOFError
                return b""
            self.left, self.begun = b"", True
            try:
                self.ready = io.BytesIO(self.frame.decompress(packed))
            except self.zstandard.ZstdError as err:
                raise ValueError(str(err)) from err
            if self.frame.eof:
                self.left, self.begun = self.frame.unused_data, False
                self.frame = self.zstandard.ZstdDecompressor().decompressobj()
        return data


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Errors of the decompressors as InputErrors that name the file; those of the disk stay what they are."""
    try:
        yield
    except InputError:
        raise
    except EOFError as err:
        raise InputError(
            f"{name} is cut short: its compressed data ends too early", "copy or download it again"
        ) from err
    except RuntimeError as err:  # zipfile's: a password, a compression that it does not know
        raise InputError(f"{name} cannot be unpacked: {err}", "unpack it with the program that packed it") from err
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, OSError, ValueError) as err:
        if isinstance(err, OSError) and err.errno not in (None, errno.EINVAL):
            raise  # the disk's own
        raise _damaged(name, err) from err


def _damaged(name: str, err: Exception) -> InputError:
    suffix, compression = kind(name)
    what = compression or suffix or "file"
    return InputError(f"{name} is not a whole {what} file: {err}", "copy or download it again")
