"""Parquet and Arrow files, a batch of rows at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from llmcli.data.formats.row import Row
from llmcli.data.open_file import Content
from llmcli.errors import InputError, require

_ROWS = 1024  # in memory at once
_WHOLE = 1 << 28  # bytes of a file inside an archive, which is read into memory
_FILE_MARK = b"ARROW1"  # of Arrow's file format, which Feather is; without it, it is the stream format


def read_parquet(content: Content) -> Iterator[Row]:
    """Raises InputError where pyarrow is not installed, and for a file that is damaged."""
    parquet = require("pyarrow.parquet", extra="files", purpose=f"reading {content.name}")
    with _Damage(content.name, "Parquet"):
        batches = parquet.ParquetFile(_seekable(content)).iter_batches(batch_size=_ROWS)
    return _rows(batches, content.name, "Parquet")


def read_arrow(content: Content) -> Iterator[Row]:
    """Arrow's file and stream formats, Feather too. Raises InputError as `read_parquet` does."""
    ipc = require("pyarrow.ipc", extra="files", purpose=f"reading {content.name}")
    with _Damage(content.name, "Arrow"):
        source = _seekable(content)
        is_file = source.read(len(_FILE_MARK)) == _FILE_MARK
        source.seek(0)
        if is_file:
            file = ipc.open_file(source)
            batches = (file.get_batch(index) for index in range(file.num_record_batches))
        else:
            batches = iter(ipc.open_stream(source))
    return _rows(batches, content.name, "Arrow")


def _rows(batches: Iterator[Any], name: str, what: str) -> Iterator[Row]:
    number = 0
    while True:
        with _Damage(name, what):
            batch = next(batches, None)
        if batch is None:
            return
        for start in range(0, batch.num_rows, _ROWS):
            with _Damage(name, what):
                values = batch.slice(start, _ROWS).to_pylist()
            for row in values:
                number += 1
                yield Row(f"{name}, row {number:,}", row)


def _seekable(content: Content) -> Any:
    return content.stream if content.path else io.BytesIO(content.whole(_WHOLE))


class _Damage:
    """What pyarrow says of a file that is not as it should be, as an InputError that names the file."""

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what = name, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, err: BaseException | None, _: object) -> None:
        arrow = require("pyarrow", extra="files", purpose=f"reading {self.name}")
        if isinstance(err, arrow.ArrowException | OSError | ValueError) and not isinstance(err, InputError):
            first = (str(err).splitlines() or [""])[0]
            raise InputError(f"{self.name} is not a whole {self.what} file: {first}") from err
