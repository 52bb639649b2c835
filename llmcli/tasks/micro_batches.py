"""A batch in parts, one after another, for as much memory as there is.

Shapes: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmcli.memory import Peak, available

Batch = dict[str, Any]

# what may be taken of the memory that a CPU has left: other programs want some too
SHARE = 0.7
_COUNTS = ("n_tokens", "n_ids")
# what a lack of memory is called in errors that have no class of their own: of CPUs, of MPS, CUDA and its libraries
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(err: BaseException) -> bool:
    """Whether a device or the system had no memory left, which some say in words alone."""
    if isinstance(err, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(err, RuntimeError) and any(words in str(err) for words in _OUT_OF_MEMORY)


def rows_of(batch: Batch) -> int:
    """B."""
    return len(batch["ids"])


def width(batch: Batch) -> int:
    """Places of one row with its padding, where a pair of texts has those of both."""
    return sum(batch[name].shape[1] for name in ("ids", "target") if name in batch)


def parts(batch: Batch, rows: int | None) -> list[Batch]:
    """The batch in parts of `rows` rows, the last with what is left; None: as it is.

    Every tensor and list of the batch has one entry for each row. What it counts (`n_tokens`, `n_ids`) stands in the
    first part, so that the counts of all parts add up to its own.
    """
    count = rows_of(batch)
    if rows is None or rows >= count:
        return [batch]
    found = []
    for start in range(0, count, rows):
        part = {name: _rows(name, value, count, start, start + rows) for name, value in batch.items()}
        found.append(part if start == 0 else {**part, **{name: 0 for name in _COUNTS if name in batch}})
    return found


def _rows(name: str, value: Any, count: int, start: int, stop: int) -> Any:
    if not isinstance(value, Tensor | list):
        return value
    assert len(value) == count, f"{name} has {len(value)} entries, and the batch {count} rows"
    return value[start:stop]


def fitting(batch: Batch, run: Callable[[Batch], object], *, device: torch.device, reserved: int) -> int | None:
    """How many rows as long as those of the batch fit into memory, which may be more than it has: what one and two of
    them take when they `run`, and a line through it.

    For a CPU, where taking too much ends in swapping or in the end of some process and not in an error. reserved:
    bytes that will be taken besides, for the optimizer. None where the system does not say what is free, and of a
    batch of one row.
    """
    free = available(device)
    if rows_of(batch) < 2 or free is None:
        return None
    run(parts(batch, 1)[0])  # what is made once and stays
    taken = []
    for rows in (1, 2):
        try:
            peak = Peak(device)
        except OSError:  # it does not say what was taken
            return None
        run(parts(batch, rows)[0])
        taken.append(peak.grown())
    each = max(1, taken[1] - taken[0])
    room = SHARE * free - reserved - (taken[0] - each)
    return int(max(1, room // each))
