"""Texts as rows of ids: one or two of them as one row, and rows of any length in batches for prediction.

Shapes: B rows of a batch, T ids of its longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llmcli.data.example_batches import shortened
from llmcli.data.records import Record
from llmcli.errors import InputError
from llmcli.tokenizers.base import Tokenizer

AT_ONCE = 64  # rows of similar length that are predicted together


class TextRows:
    """The ids of one or two texts as one row: `<cls> a <sep> b <sep>`, or without marks `a`, `a <sep> b`."""

    def __init__(self, *, marks: bool, tokenizer: Tokenizer) -> None:
        self.marks = marks
        self.cls_id, self.sep_id = tokenizer.cls_id, tokenizer.sep_id
        if marks and (self.cls_id is None or self.sep_id is None):
            raise InputError("task.marks is on, but this tokenizer has no <cls> and <sep>", "task.marks=false")
        self.pad: Mapping[str, int] = {"ids": tokenizer.pad_id or 0}
        self.extra = 3 if marks else 1

    def ids(self, texts: list[NDArray[Any]]) -> NDArray[np.int64]:
        """Never empty."""
        row: list[Any] = [[self.cls_id]] if self.marks else []
        for place, text in enumerate(texts):
            row.append(text)
            if self.marks or place < len(texts) - 1:
                row.append([self.sep_id])
        joined = np.concatenate(row).astype(np.int64)
        return joined if len(joined) else np.array([self.pad["ids"]], np.int64)


def shorter(seq_len: int, max_seq_len: int | None) -> int:
    """How many ids of a text are read: so many were in training, and the model can read so many."""
    return seq_len if max_seq_len is None else min(seq_len, max_seq_len)


def rows_of(records: Sequence[Record], tokenizer: Tokenizer, encode: TextRows, limit: int | None) -> list[list[int]]:
    """The row of each record, cut to at most `limit` ids as training examples are; the marks stay."""
    rows = []
    for record in records:
        ids = [np.array(each, np.int64) for each in tokenizer.encode_batch(record.texts())]
        if limit is not None:
            _, ids = shortened(record, ids, limit - encode.extra)
        rows.append(encode.ids(ids).tolist())
    return rows


def padded(
    rows: Sequence[Sequence[int]], *, pad_id: int, device: torch.device
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """The numbers of some rows of similar length, their ids (B, T) and mask (B, T), until all rows had their turn."""
    for chosen in by_length(list(map(len, rows))):
        parts = [torch.tensor(rows[row]) for row in chosen]
        ids = pad_sequence(parts, batch_first=True, padding_value=pad_id)
        mask = torch.arange(ids.size(1)) < torch.tensor([len(part) for part in parts])[:, None]
        yield chosen, ids.to(device), mask.to(device)


def by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of what is predicted together: of similar length, so that little of a batch is padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), AT_ONCE):
        yield order[start : start + AT_ONCE]
