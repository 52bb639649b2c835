"""Noise on the tokens of a text: what a denoising autoencoder reads, what a decoder is not shown.

Shapes: B rows, S tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def corrupted(
    ids: Tensor, mask: Tensor | None, *, drop: float, shuffle: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """ids (B, S), mask (B, S) -> those of the same texts with tokens missing and out of order (Lample et al. 2018).

    drop: the probability that a token is taken out. shuffle: places that a token moves at most. The last token of each
    row, the end of its text, stays where it is. generator: None is torch's own.
    """
    rows, length = ids.shape
    place = torch.arange(length, device=ids.device)
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    last = place == real.sum(1, keepdim=True) - 1  # (B, S)
    chance = torch.rand(2, rows, length, generator=generator, device=ids.device)
    kept = real & ((chance[0] >= drop) | last)
    # j comes before i < j only where j + u_j < i + u_i, so that j - i <= shuffle
    order = (place + chance[1] * (shuffle + 1)).masked_fill(last, length + shuffle)
    order = order.masked_fill(~kept, torch.inf).argsort(dim=1, stable=True)
    return ids.gather(1, order), place < kept.sum(1, keepdim=True)


def hidden_words(ids: Tensor, *, rate: float, mask_id: int, generator: torch.Generator | None = None) -> Tensor:
    """ids (B, T) with each one but the first of a row shown as `mask_id` with probability `rate` (Bowman et al. 2016).

    What a decoder cannot read off its own past it must take from the code.
    """
    hidden = torch.rand(ids.shape, generator=generator, device=ids.device) < rate
    hidden[:, 0] = False
    return ids.masked_fill(hidden, mask_id)
