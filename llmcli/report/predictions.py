"""What became of each example of a split, as JSON lines; and of those the few that a page can show.

An outcome is a dict of plain values (`tasks.base.ScoresExamples`): text or texts, true, predicted, right, loss, ...
"""

from __future__ import annotations

import heapq
import json
import math
import tempfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from llmcli import files

HARDEST = 30  # examples of the highest loss that are kept
RIGHT = 10  # and others that are right, chosen at random
_DIGITS = 6  # decimals: what differs after them differs with the batch
Kept = tuple[float, int, dict[str, Any]]  # what it is chosen by, minus its number, the outcome

Outcome = Mapping[str, Any]


class Predictions:
    """Takes the outcomes batch by batch in any order, and writes them in the order of the split.

    In memory there are 16 bytes an example and the few that are kept. folder: where a nameless file holds the lines
    until `write`. classes: their names, of a task that has them; pairs of (true, predicted) classes are counted.
    """

    def __init__(self, folder: Path, *, classes: Iterable[str]) -> None:
        self._lines: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed by `close`
        self._numbers, self._starts = array("q"), array("q")
        self._classes = frozenset(classes)
        self._hardest: list[Kept] = []
        self._right: list[Kept] = []
        self.confusion: Counter[tuple[str, str]] = Counter()

    def add(self, numbers: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        """numbers: the place of each in the split."""
        for number, outcome in zip(numbers, map(plain, outcomes), strict=True):
            self._numbers.append(number)
            self._starts.append(self._lines.tell())
            self._lines.write(line(outcome))
            loss = outcome["loss"]
            _keep(self._hardest, (math.inf if loss is None else loss, -number, outcome), HARDEST)
            if outcome["right"]:
                _keep(self._right, (-zlib.crc32(b"%d" % number), -number, outcome), HARDEST + RIGHT)
            pair = (outcome["true"], outcome["predicted"])
            if all(isinstance(name, str) and name in self._classes for name in pair):
                self.confusion[pair] += 1

    def hardest(self) -> list[tuple[int, dict[str, Any]]]:
        """(number, outcome) of the highest losses, the highest first."""
        return [(-number, outcome) for _, number, outcome in sorted(self._hardest, key=_rank, reverse=True)]

    def right(self) -> list[tuple[int, dict[str, Any]]]:
        """(number, outcome) of some that are right and not among the hardest; which ones only the split decides."""
        shown = {number for number, _ in self.hardest()}
        chosen = [(-number, outcome) for _, number, outcome in sorted(self._right, key=_rank, reverse=True)]
        return [each for each in chosen if each[0] not in shown][:RIGHT]

    def write(self, path: Path) -> None:
        """One line for each example, in the order of the split; the file is there whole or not at all."""
        starts = [start for _, start in sorted(zip(self._numbers, self._starts, strict=True))]

        def copy(file: IO[bytes]) -> None:
            for start in starts:
                self._lines.seek(start)
                file.write(self._lines.readline())

        files.write_atomic(path, copy)

    def close(self) -> None:
        self._lines.close()


def _keep(kept: list[Kept], one: Kept, most: int) -> None:
    """The `most` highest, as a heap whose first is the lowest; numbers differ, so that outcomes are never compared."""
    if len(kept) < most:
        heapq.heappush(kept, one)
    else:
        heapq.heappushpop(kept, one)


def _rank(kept: Kept) -> tuple[float, int]:
    return kept[:2]


def line(outcome: Outcome) -> bytes:
    """An outcome that is `plain` as a line of JSON: of half a surrogate pair, which has no UTF-8, JSON's own escape."""
    return json.dumps(outcome, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def plain(value: Any) -> Any:
    """Floats rounded, and what is no finite number None, as strict JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return round(value, _DIGITS) if math.isfinite(value) else None
    return value
