"""A file of numbers that only grows, hashed on the way, and taken up again where it was left."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 20


class ShorterError(Exception):
    """What an earlier process had written is not all there."""


class Column:
    """Values appended to a file. count: so many it holds already; what stands after them is cut off.

    Raises ShorterError where it does not hold them.
    """

    def __init__(self, path: Path, dtype: str, *, count: int = 0) -> None:
        self.path, self.dtype, self.count = path, np.dtype(dtype), count
        self._hash = hashlib.sha256()
        if count and not path.is_file():
            raise ShorterError(path)
        self._file = path.open("r+b" if count else "wb")
        left = count * self.dtype.itemsize
        while left:
            block = self._file.read(min(left, _BLOCK))
            if not block:
                self._file.close()
                raise ShorterError(path)
            self._hash.update(block)
            left -= len(block)
        self._file.seek(count * self.dtype.itemsize)  # a file that was read may only be written after this
        self._file.truncate()

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.dtype.itemsize

    def append(self, values: NDArray[Any]) -> None:
        """Values (n,), in the file when this returns: a process that is killed then loses nothing."""
        data = np.ascontiguousarray(values, self.dtype).view(np.uint8).data
        self._file.write(data)
        self._file.flush()
        self._hash.update(data)
        self.count += len(values)

    def sync(self) -> None:
        """Returns when a power cut would lose nothing either."""
        os.fsync(self._file.fileno())

    def close(self) -> str:
        """Sync and close; the sha256 of the whole file."""
        self.sync()
        self._file.close()
        return self._hash.hexdigest()

    def abandon(self) -> None:
        """Close it as it is."""
        self._file.close()
