"""Word vectors in files: the text and binary formats of word2vec, and GloVe's text; one vector at a time in memory.

word2vec: a line `words dimensions`, then for each word its text, a space and its numbers, written out (text) or as
little-endian float32 (binary). glove: the same text without the first line. A name that ends in .gz is compressed.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from llmcli import files
from llmcli.errors import InputError

Format = Literal["word2vec", "word2vec_binary", "glove"]
Vector = NDArray[np.float32]  # (D,)

_LONGEST = 1 << 22  # bytes of a line or word: more is no file of vectors
_WIDEST = 100_000  # dimensions
_HEADER = re.compile(rb"\s*(\d+)\s+(\d+)\s*")
_NUMBERS = re.compile(rb"[-+.\deEnaif \r]+")  # nan and inf too, which are refused later
_PEEK = 32  # bytes after the first word, which tell text from binary


@dataclass(frozen=True, slots=True)
class VectorFile:
    """A file of vectors that can be read. count: of words, None where the file does not say."""

    path: Path
    format: Format
    dimensions: int
    count: int | None

    @classmethod
    def open(cls, path: Path) -> VectorFile:
        """Look at the beginning of a file. Raises InputError where it is no file of vectors."""
        with _reading(path) as file:
            first = _line(file, path, 1)
            header = _HEADER.fullmatch(first)
            if header is None:
                dimensions = len(first.split()) - 1
                found = cls(path, "glove", dimensions, None)
            else:
                count, dimensions = int(header[1]), int(header[2])
                after = file.read(4096).partition(b" ")[2][:_PEEK].partition(b"\n")[0]
                found = cls(path, "word2vec" if _NUMBERS.fullmatch(after) else "word2vec_binary", dimensions, count)
        if not 1 <= found.dimensions <= _WIDEST:
            raise InputError(
                f"{path} is not a file of word vectors: it begins {first[:60]!r}",
                "word2vec's text or binary format, or GloVe's",
            )
        return found

    def read(self, wanted: Callable[[str], bool] = lambda word: True) -> Iterator[tuple[str, Vector]]:
        """The wanted words and their vectors, in the order of the file.

        Raises InputError naming the place where the file is ragged, ends too early, or holds what is no finite number.
        """
        with _reading(self.path) as file:
            if self.count is not None:
                _line(file, self.path, 1)
            yield from self._binary(file, wanted) if self.format == "word2vec_binary" else self._text(file, wanted)

    def _text(self, file: IO[bytes], wanted: Callable[[str], bool]) -> Iterator[tuple[str, Vector]]:
        number, found = 0 if self.count is None else 1, 0
        while line := _line(file, self.path, number + 1):
            number += 1
            if not line.strip():
                continue
            found += 1
            # from the right: some of GloVe's words hold spaces
            word, *numbers = line.rstrip(b" \r\n").rsplit(b" ", self.dimensions)
            if len(numbers) != self.dimensions:
                raise InputError(
                    f"{self.path}, line {number}: {len(numbers)} numbers instead of {self.dimensions}",
                    "the file is damaged, or was cut off",
                )
            name = word.decode("utf-8", "replace")
            if wanted(name):
                try:
                    vector = np.array(numbers, np.float32)
                except ValueError as err:
                    raise InputError(f"{self.path}, line {number}: {err}") from err
                yield name, self._checked(vector, name)
        self._check_count(found)

    def _binary(self, file: IO[bytes], wanted: Callable[[str], bool]) -> Iterator[tuple[str, Vector]]:
        assert self.count is not None
        size = 4 * self.dimensions
        for number in range(self.count):
            word = bytearray()
            while (byte := file.read(1)) != b" ":
                if not byte:
                    self._check_count(number)
                if len(word) >= _LONGEST:
                    raise InputError(f"{self.path}: word {number + 1} does not end")
                word += byte
            data = file.read(size)
            if len(data) != size:
                self._check_count(number)
            name = bytes(word).lstrip(b"\n").decode("utf-8", "replace")  # word2vec.c ends each vector with a newline
            if wanted(name):
                yield name, self._checked(np.frombuffer(data, "<f4"), name)

    def _checked(self, vector: Vector, word: str) -> Vector:
        if not np.isfinite(vector).all():
            raise InputError(f"{self.path}: the vector of {word!r} has numbers that are not finite")
        return vector

    def _check_count(self, found: int) -> None:
        if self.count is not None and found != self.count:
            raise InputError(
                f"{self.path} holds {found:,} vectors where its first line says {self.count:,}",
                "the file is damaged, or was cut off",
            )


def write(path: Path, words: Iterable[str], vectors: Iterable[Vector], form: str) -> int:
    """Write a file of vectors and return their number. Words that hold white space are left out: no format has them.

    words and vectors: as many of both. Raises InputError for a format that does not exist.
    """
    if form not in get_args(Format):
        raise InputError(f"format must be one of {', '.join(get_args(Format))}, not {form!r}")
    pairs = [(word, vector) for word, vector in zip(words, vectors, strict=True) if word.split() == [word]]

    def content(file: IO[bytes]) -> None:
        out = cast(IO[bytes], gzip.GzipFile(fileobj=file, mode="wb")) if path.suffix == ".gz" else file
        if form != "glove":
            out.write(f"{len(pairs)} {len(pairs[0][1]) if pairs else 0}\n".encode())
        for word, vector in pairs:
            binary = form == "word2vec_binary"
            # the fewest digits that come back as the same float32
            numbers = vector.astype("<f4").tobytes() if binary else " ".join(map(str, vector)).encode()
            out.write(word.encode("utf-8", "replace") + b" " + numbers + b"\n")
        if out is not file:
            out.close()

    try:
        files.write_atomic(path, content)
    except OSError as err:
        raise InputError(f"cannot write {path}: {err.strerror}") from err
    return len(pairs)


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(IO[bytes], file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as err:
        raise InputError(f"{path} cannot be unpacked: {err}", "the file is damaged, or was cut off") from err
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror or err}") from err


def _line(file: IO[bytes], path: Path, number: int) -> bytes:
    """The next line, empty at the end of the file."""
    line = file.readline(_LONGEST)
    if len(line) == _LONGEST:
        raise InputError(f"{path}, line {number} is longer than {_LONGEST:,} bytes: this is no file of word vectors")
    return line
