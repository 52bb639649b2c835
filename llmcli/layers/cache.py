"""The key-value cache of an attention decoder: what it has read, so that the next token costs one query.

Shapes: L layers, B batch, T new tokens, H key-value heads, C capacity, R room so far, S filled positions, K head size.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.errors import InputError
from llmcli.models.base import State

BLOCK = 16  # room is made for so many positions more, at least: little to copy where rows are picked after every token
ROOM = 2**26  # bytes that are set aside at once, if the capacity is worth so many; beyond it room doubles as needed


class KVCache(State):
    """keys and values (L, B, H, R, K), where R is C, or grows up to it; row b holds the positions 0 ... lengths[b] - 1.

    One `step` of a model calls `positions`, `mask`, then `append` in each layer, then `advance` once. Rows
    may have different lengths: the padding of a short row is written behind its real tokens, where causality
    hides it from every real query until the next tokens overwrite it. `append` writes in place: the cache is
    for inference. uniform: the length of every row, where the caller knows it, which spares asking the device.
    """

    def __init__(
        self, keys: Tensor, values: Tensor, lengths: Tensor, capacity: int, uniform: int | None = None
    ) -> None:
        self._hold(keys, values)
        self.lengths = lengths
        self.capacity = capacity  # the most tokens a row can hold
        # Bounds of `lengths` as Python ints: reading the tensor in every layer would wait for the device.
        self._shortest, self._longest = _bounds(lengths) if uniform is None else (uniform, uniform)
        self._at: Tensor | None = None  # where the tokens of this step go, the same in every layer

    @classmethod
    def empty(
        cls,
        *,
        n_layers: int,
        batch_size: int,
        n_kv_heads: int,
        capacity: int,
        head_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Room for `capacity` tokens in each of `batch_size` rows."""
        if capacity < 1:
            raise InputError(f"the cache's capacity ({capacity}) must be at least 1")
        held = max(1, n_layers * batch_size * n_kv_heads * head_size)  # keys of a position, and as many values
        room = min(capacity, max(BLOCK, ROOM // (2 * held * (dtype or torch.get_default_dtype()).itemsize)))
        # Zeros, not uninitialised memory: a masked position has weight 0, and 0 * NaN is NaN.
        keys = torch.zeros((n_layers, batch_size, n_kv_heads, room, head_size), device=device, dtype=dtype)
        return cls(keys, torch.zeros_like(keys), torch.zeros(batch_size, dtype=torch.int64, device=device), capacity, 0)

    @property
    def uniform(self) -> int | None:
        """The length of every row where all are equal (known without asking the device), else None."""
        return self._longest if self._shortest == self._longest else None

    @property
    def longest(self) -> int:
        """The most tokens that a row holds, known as `uniform` is."""
        return self._longest

    def positions(self, n_new: int) -> Tensor:
        """Absolute positions (B, T) of the next `n_new` tokens."""
        return self.lengths[:, None] + torch.arange(n_new, device=self.lengths.device)

    def mask(self, n_new: int) -> Tensor:
        """Which of the S positions that `append` returns each new query may see: bool (B, 1, T, S)."""
        keys = torch.arange(self._filled(n_new), device=self.lengths.device)
        return (keys <= self.positions(n_new)[:, :, None])[:, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v (B, H, T, K) at each row's next positions -> all keys and values (B, H, S, K), as views.

        Padding that lies beyond the capacity is dropped; real tokens there are refused by `advance`.
        """
        n_new = k.shape[2]
        filled = self._filled(n_new)
        self._make_room(filled)
        keys, values = self._layers[layer]
        if (start := self.uniform) is not None:
            if filled - start < n_new:
                k, v = k[:, :, : filled - start], v[:, :, : filled - start]
            keys[:, :, start:filled] = k
            values[:, :, start:filled] = v
        elif self._longest + n_new <= self.capacity:
            if self._at is None or self._at.shape[2] != n_new:
                self._at = self.positions(n_new)[:, None, :, None]
            at = self._at.expand_as(k)
            keys.scatter_(2, at, k.to(keys.dtype))
            values.scatter_(2, at, v.to(values.dtype))
        else:
            positions = self.positions(n_new)
            rows, new = torch.nonzero(positions < self.capacity, as_tuple=True)
            at = positions[rows, new]
            keys[rows, :, at] = k[rows, :, new].to(keys.dtype)
            values[rows, :, at] = v[rows, :, new].to(values.dtype)
        return keys[:, :, :filled], values[:, :, :filled]

    def room_for(self, n_new: int) -> tuple[Tensor, Tensor]:
        """All keys and values (L, B, H, R, K), with room for the next tokens, for a caller that writes them."""
        self._make_room(self._filled(n_new))
        return self.keys, self.values

    def advance(self, n_new: int | Tensor) -> Self:
        """Count the tokens just appended: the same number for every row, or `lengths` (B,) -> this cache.

        Raises:
            InputError: a row would hold more than the capacity.
        """
        if isinstance(n_new, int):
            shortest, longest = self._shortest + n_new, self._longest + n_new
            lengths = self.lengths + n_new
        else:
            lengths = self.lengths + n_new.to(self.lengths)
            shortest, longest = _bounds(lengths)
        if longest > self.capacity:
            raise InputError(
                f"{longest} tokens do not fit the cache's capacity of {self.capacity}",
                hint="ask init_state for a larger capacity, or generate fewer tokens",
            )
        self.lengths, self._shortest, self._longest, self._at = lengths, shortest, longest, None
        return self

    @torch.no_grad()
    def reorder(self, index: Tensor) -> Self:
        index = index.to(self.keys.device)
        keys, values = (self._picked(each, index) for each in (self.keys, self.values))
        return type(self)(keys, values, self.lengths[index], self.capacity, self.uniform)

    def truncate(self, lengths: Tensor) -> Self:
        """The first `lengths` (B,) tokens of each row; it shares memory with this cache, which is spent."""
        lengths = lengths.to(self.lengths)
        if bool((lengths > self.lengths).any()) or bool((lengths < 0).any()):
            raise ValueError(f"cannot truncate rows of {self.lengths.tolist()} tokens to {lengths.tolist()}")
        return type(self)(self.keys, self.values, lengths, self.capacity)

    def clone(self) -> Self:
        return type(self)(self.keys.clone(), self.values.clone(), self.lengths.clone(), self.capacity, self.uniform)

    def detach(self) -> Self:
        return type(self)(self.keys.detach(), self.values.detach(), self.lengths, self.capacity, self.uniform)

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self._layers = [(keys[layer], values[layer]) for layer in range(len(keys))]  # views, made once for all steps

    def _filled(self, n_new: int) -> int:
        return min(self._longest + n_new, self.capacity)

    def _make_room(self, filled: int) -> None:
        room = self.keys.shape[3]
        if filled > room:
            more = min(self.capacity, max(filled, 2 * room)) - room
            self._hold(*(F.pad(each, (0, 0, 0, more)) for each in (self.keys, self.values)))

    def _picked(self, kept: Tensor, index: Tensor) -> Tensor:
        """Rows of (L, B, H, R, K): what is filled of them, and room for a few tokens more."""
        layers, _, heads, _, size = kept.shape
        filled = self._longest
        picked = kept.new_empty(layers, len(index), heads, min(self.capacity, filled + BLOCK), size)
        torch.index_select(kept[:, :, :, :filled], 1, index, out=picked[:, :, :, :filled])
        picked[:, :, :, filled:] = 0
        return picked


def _bounds(lengths: Tensor) -> tuple[int, int]:
    low, high = torch.stack(lengths.aminmax()).tolist()
    return low, high
