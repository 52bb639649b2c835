"""The memory of a model that sees a fixed number of tokens back: the ids themselves.

Shapes: B batch, T new tokens, C capacity, N window.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from llmcli.errors import InputError
from llmcli.models.base import State

NOTHING = -1  # the id of a place before the text begins


class WindowState(State):
    """ids (B, C + 1): every row's tokens from its beginning, so that any of them can be gone back to.

    The last column takes the padding that would lie beyond the capacity.
    """

    def __init__(self, ids: Tensor, lengths: Tensor) -> None:
        self.ids = ids
        self.lengths = lengths

    @classmethod
    def empty(cls, *, batch_size: int, capacity: int, device: torch.device | str | None = None) -> Self:
        """Room for `capacity` tokens in each of `batch_size` rows."""
        ids = torch.full((batch_size, capacity + 1), NOTHING, device=device)
        return cls(ids, torch.zeros(batch_size, dtype=torch.int64, device=device))

    def read(self, ids: Tensor, window: int) -> Tensor:
        """Write the next ids (B, T) -> the window that ends at each of them (B, T, N), NOTHING before the text."""
        at = self.lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)  # (B, T)
        end = self.ids.shape[1] - 1
        self.ids.scatter_(1, at.clamp(max=end), ids)
        seen = at[..., None] + torch.arange(1 - window, 1, device=ids.device)  # (B, T, N)
        windows = self.ids.gather(1, seen.clamp(0, end).flatten(1)).view_as(seen)
        return windows.masked_fill(seen < 0, NOTHING)

    def advance(self, n_new: int | Tensor) -> Self:
        """Count the tokens just read: the same number for every row, or `lengths` (B,) -> this state.

        Raises:
            InputError: a row would hold more than the capacity.
        """
        lengths = self.lengths + n_new
        capacity = self.ids.shape[1] - 1
        if (longest := int(lengths.max())) > capacity:
            raise InputError(
                f"{longest} tokens do not fit the state's capacity of {capacity}",
                hint="ask init_state for a larger capacity, or generate fewer tokens",
            )
        self.lengths = lengths
        return self

    def reorder(self, index: Tensor) -> Self:
        return type(self)(self.ids[index], self.lengths[index])

    def truncate(self, lengths: Tensor) -> Self:
        """The first `lengths` (B,) tokens of each row; it shares memory with this state, which is spent."""
        lengths = lengths.to(self.lengths)
        if bool((lengths > self.lengths).any()) or bool((lengths < 0).any()):
            raise ValueError(f"cannot truncate rows of {self.lengths.tolist()} tokens to {lengths.tolist()}")
        return type(self)(self.ids, lengths)

    def clone(self) -> Self:
        return type(self)(self.ids.clone(), self.lengths.clone())

    def detach(self) -> Self:
        return self
