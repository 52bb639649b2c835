"""Stored examples -> padded batches: a pure function of (seed, epoch, number).

Shapes: B examples of a batch, T ids of its longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from llmcli.data.augment import Augmentation, Ids
from llmcli.data.examples import Examples
from llmcli.data.records import Record, TaggedTokens
from llmcli.data.samplers import Batches
from llmcli.data.windows import Batch, Plan

Row = dict[str, Any]
Lengths = NDArray[np.int64]


class Encode(Protocol):
    """What a task makes of one example.

    A call takes the record and the ids of each of its texts, and gives named fields: `ids` (T,), further 1-D arrays and
    numbers; `n_tokens` where the example has other than one target. pad: for each field whose length differs between
    examples, what fills it up. extra: how many ids it adds to those of the texts, at most.
    """

    @property
    def pad(self) -> Mapping[str, int]: ...

    @property
    def extra(self) -> int: ...

    def __call__(self, record: Record, ids: list[Ids], /) -> Row: ...


class Sizes(NamedTuple):
    """What examples take up in batches, (E,) each: how many rows, the ids of the longest, and of all together."""

    rows: Lengths
    longest: Lengths
    ids: Lengths


@runtime_checkable
class EncodeRows(Protocol):
    """What a task makes of an example that may be several rows: windows of a long text, one row for each choice.

    pad, extra: as of `Encode`. fate: what becomes of a text that is too long, in words. `rows` gives those of one
    example, at least one, of at most `limit` ids; `sizes` what that comes to for many, from the lengths of all their
    texts (texts,) and the place of the first text of each (E,). limit None: nothing is too long.
    """

    fate: str

    @property
    def pad(self) -> Mapping[str, int]: ...

    @property
    def extra(self) -> int: ...

    def rows(self, record: Record, ids: list[Ids], limit: int) -> list[Row]: ...

    def sizes(self, lengths: Lengths, first: Lengths, limit: int | None) -> Sizes: ...


@runtime_checkable
class PackRows(Protocol):
    """An `EncodeRows` with one row for each example, of which several may become one: `packed` takes those of a batch.

    Rows then say in `segment_ids` (T,) of which example of the batch each id is.
    """

    def packed(self, rows: Sequence[Row], limit: int) -> list[Row]: ...


class ExamplePlan(Plan):
    """Batches of encoded examples: each field (B, T) padded, or (B,); mask (B, T) where something is padding.

    Where examples are several rows (`EncodeRows`), B are rows, and `example` (B,) says of which of `numbers` each is.
    seq_len: longer examples are cut, the longest of their texts first. augment: changes each example anew every epoch.
    max_tokens: of a batch with its padding; `batches` keeps to it as the examples are, and what augment makes longer is
    cut to it. rows (E,): how many each example has; None: one.
    """

    def __init__(
        self,
        examples: Examples,
        batches: Batches,
        *,
        encode: Encode | EncodeRows,
        seq_len: int,
        augment: Augmentation | None = None,
        max_tokens: int | None = None,
        rows: Lengths | None = None,
    ) -> None:
        self.examples, self.batches, self.rows = examples, batches, rows
        self.encode, self.seq_len, self.augment, self.max_tokens = encode, seq_len, augment, max_tokens
        self._several = isinstance(encode, EncodeRows)  # not asked for every example: it looks at each member

    def __len__(self) -> int:
        return len(self.batches)

    def batch(self, epoch: int, number: int) -> Batch:
        examples, showings = self.batches.numbers(epoch, number)
        longest = self.seq_len
        if self.max_tokens is not None and self.augment is not None:
            count = len(examples) if self.rows is None else int(self.rows[examples].sum())
            longest = max(self.encode.extra + 1, min(longest, self.max_tokens // count))
        shown = zip(examples.tolist(), showings.tolist(), strict=True)
        found = [self._rows(number, showing, epoch, longest) for number, showing in shown]
        rows = [row for rows in found for row in rows]
        if isinstance(self.encode, PackRows):
            rows = self.encode.packed(rows, longest)
        batch = collate(rows, self.encode.pad)
        if self._several and not isinstance(self.encode, PackRows):
            batch["example"] = torch.arange(len(found)).repeat_interleave(torch.tensor(list(map(len, found))))
        batch["index"] = epoch * len(self) + number
        batch["numbers"] = torch.from_numpy(examples.astype(np.int64))  # which examples of the split they are
        return batch

    def _rows(self, number: int, showing: int, epoch: int, longest: int) -> list[Row]:
        record, ids = self.examples[number], self.examples.ids(number)
        if self.augment is not None:
            record, ids = self.augment(record, ids, number=number, showing=showing, epoch=epoch)
        if self._several:
            return cast(EncodeRows, self.encode).rows(record, ids, longest)
        return [cast(Encode, self.encode)(*shortened(record, ids, longest - self.encode.extra))]


def sizes_of(examples: Examples, encode: Encode | EncodeRows, limit: int | None) -> Sizes:
    """What the examples take up in rows of at most `limit` ids; None: uncut."""
    if isinstance(encode, EncodeRows):
        return encode.sizes(*examples.text_lengths(), limit)
    lengths = _lengths(examples) + encode.extra
    ids = lengths if limit is None else np.minimum(lengths, limit)
    return Sizes(rows=np.ones_like(ids), longest=ids, ids=ids)


def _lengths(examples: Examples) -> Lengths:
    """Ids of each example, (E,)."""
    if examples.kind != TaggedTokens.__name__:
        return examples.lengths()
    lengths, first = examples.text_lengths()
    totals = np.append(0, np.maximum(lengths, 1).cumsum())  # as `shortened` counts
    found: Lengths = np.diff(totals[np.append(first, len(lengths))])
    return found


def shortened(record: Record, ids: list[Ids], limit: int) -> tuple[Record, list[Ids]]:
    """At most `limit` ids: the longest text loses its end first.

    Of a tagged sentence the last tokens go: the record is whole, since their tags are still to be found, and there are
    fewer texts of ids than it has tokens. A token without ids counts as one, because it is read as unknown.
    """
    lengths = np.array([len(each) for each in ids])
    if isinstance(record, TaggedTokens):
        lengths = np.maximum(lengths, 1)
    if lengths.sum() <= limit:
        return record, ids
    if isinstance(record, TaggedTokens):
        kept = max(1, int((lengths.cumsum() <= limit).sum()))
        return record, [ids[0][:limit], *ids[1:kept]]
    return record, [each[:most] for each, most in zip(ids, _longest_first(lengths, limit), strict=True)]


def _longest_first(lengths: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """How much of each length is left when one after another is taken from the longest, down to `limit` in all."""
    order = lengths.argsort(kind="stable")
    kept = lengths.copy()
    for done, place in enumerate(order):  # the short ones get what they need, the others share the rest
        share, more = divmod(limit, len(lengths) - done)
        if lengths[place] > share:
            rest = np.sort(order[done:])
            kept[rest] = share
            kept[rest[:more]] += 1
            break
        limit -= int(lengths[place])
    return kept


def collate(rows: Sequence[Row], pad: Mapping[str, int]) -> Batch:
    """Fields of B rows as one batch: those in `pad` (B, T), others (B, ...), n_tokens their sum, n_ids the ids.

    What is neither a number nor an array stays as it is, a list (B,).
    """
    batch: Batch = {"n_tokens": sum(int(row.get("n_tokens", 1)) for row in rows)}
    for name in rows[0].keys() - {"n_tokens"}:
        values = [row[name] for row in rows]
        if name in pad:
            batch[name] = torch.from_numpy(_padded(values, pad[name]))
        elif isinstance(values[0], bool | int | float | np.generic | np.ndarray):
            batch[name] = torch.from_numpy(_wide(np.array(values)))
        else:
            batch[name] = values
    lengths = np.array([len(row["ids"]) for row in rows])
    batch["n_ids"] = int(lengths.sum())
    if lengths.min() < lengths.max():
        batch["mask"] = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])  # (B, T)
    return batch


def _padded(values: Sequence[Ids], fill: int) -> NDArray[Any]:
    full = np.full((len(values), max(map(len, values))), fill, _wide(np.asarray(values[0])).dtype)
    for row, value in zip(full, values, strict=True):
        row[: len(value)] = value
    return full


def _wide(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
