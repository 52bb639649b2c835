"""What a pair of texts becomes for a model that reads the source apart, or before the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcli.data.example_batches import Sizes
from llmcli.data.records import Record
from llmcli.losses import IGNORED

Lengths = NDArray[np.int64]


class PairEncoder:
    """A pair as `ids` (S,): the source and an end; `target` (T,): a beginning and the target; `labels` (T,): the
    target and an end. Each side has a limit of its own; a target that is cut does not seem to end there."""

    fate = "cut"
    extra = 1

    def __init__(self, *, pad_id: int, bos_id: int, eos_id: int) -> None:
        self.bos_id, self.eos_id = bos_id, eos_id
        self.pad: Mapping[str, int] = {"ids": pad_id, "target": pad_id, "labels": IGNORED}

    def rows(self, record: Record, ids: list[NDArray[Any]], limit: int) -> list[dict[str, Any]]:
        source, target = ids
        labels = np.append(target, self.eos_id)[:limit]
        return [
            {
                "ids": np.append(source[: limit - 1], self.eos_id),
                "target": np.insert(labels[:-1], 0, self.bos_id),
                "labels": labels,
                "n_tokens": len(labels),
            }
        ]

    def sizes(self, lengths: Lengths, first: Lengths, limit: int | None) -> Sizes:
        """Of a row's two sides, each padded on its own, the longer one counts."""
        sides = _sides(lengths, first, limit)
        return Sizes(rows=np.ones_like(first), longest=sides.max(0), ids=sides.sum(0))


class PrefixEncoder(PairEncoder):
    """A pair as one text, `ids` (S + T,): the source and an end, a beginning and the target; `labels` (S + T,) of the
    target alone. Half of the limit is for each side, so that there is as much room for a target as was learned."""

    extra = 2

    def rows(self, record: Record, ids: list[NDArray[Any]], limit: int) -> list[dict[str, Any]]:
        [row] = super().rows(record, ids, limit // 2)
        unasked = np.full(len(row["ids"]), IGNORED)
        joined = {"ids": np.append(row["ids"], row["target"]), "labels": np.append(unasked, row["labels"])}
        return [{**joined, "n_tokens": row["n_tokens"]}]

    def sizes(self, lengths: Lengths, first: Lengths, limit: int | None) -> Sizes:
        ids = _sides(lengths, first, None if limit is None else limit // 2).sum(0)
        return Sizes(rows=np.ones_like(first), longest=ids, ids=ids)


def _sides(lengths: Lengths, first: Lengths, limit: int | None) -> Lengths:
    """Ids of the source and of the target of each example, (2, E)."""
    sides = np.stack((lengths[first], lengths[first + 1])) + 1
    return sides if limit is None else np.minimum(sides, limit)
