"""Rows of ids of any length, batched for prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

AT_ONCE = 64  # texts of similar length that are predicted together


def padded(
    rows: Sequence[Sequence[int]], *, pad_id: int, device: torch.device
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """The numbers of some rows of similar length, their ids (B, T) and mask (B, T), until all rows had their turn."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    for start in range(0, len(order), AT_ONCE):
        chosen = order[start : start + AT_ONCE]
        parts = [torch.tensor(rows[row]) for row in chosen]
        ids = pad_sequence(parts, batch_first=True, padding_value=pad_id)
        mask = torch.arange(ids.size(1)) < torch.tensor([len(part) for part in parts])[:, None]
        yield chosen, ids.to(device), mask.to(device)
