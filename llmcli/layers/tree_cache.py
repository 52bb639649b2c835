"""The key-value cache of a beam search: what the beams of one row have read, each token once however many share it.

Shapes: L layers, N rows, G beams of each, B = N G, H heads, M slots, R room for slots, K head size.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.errors import InputError
from llmcli.layers.attention import attend
from llmcli.layers.cache import KVCache

ROOM = 16  # room is made for so many tokens of each beam more, at least


class TreeCache:
    """keys and values (L, N, H, R, K), M slots of them filled; visible (B, M) bool: those that a beam descends from.

    In each step the beams of a row fill a slot each, and are G queries over all slots of the row. Picking other beams
    changes what they descend from; no key is copied, unless whole rows are picked. lengths (B,): tokens of each beam.
    """

    def __init__(self, keys: Tensor, values: Tensor, visible: Tensor, lengths: Tensor, capacity: int) -> None:
        self.keys, self.values, self.visible, self.lengths = keys, values, visible, lengths
        self.capacity = capacity  # the most tokens that a beam can hold
        self.beams = len(visible) // keys.size(1)
        self.longest = 0  # bound of `lengths`, which nobody need ask the device for

    @classmethod
    def of(cls, cache: KVCache, rows: Tensor | None, beams: int) -> Self:
        """`beams` of each of these rows of a cache, None: of all."""
        if rows is not None:
            cache = cache.reorder(rows)
        n_slots = cache.longest
        visible = torch.arange(n_slots, device=cache.lengths.device) < cache.lengths[:, None]  # (N, M)
        lengths = cache.lengths.repeat_interleave(beams)
        keys, values = cache.keys[:, :, :, :n_slots], cache.values[:, :, :, :n_slots]
        tree = cls(keys, values, visible.repeat_interleave(beams, 0), lengths, cache.capacity)
        tree.longest = n_slots
        return tree

    def cache(self) -> KVCache:
        """The same with a copy of all that it has read for each beam."""
        order = (~self.visible).int().argsort(dim=1, stable=True)[:, : self.longest]  # (B, T): its own slots, in order
        rows = torch.arange(len(order), device=order.device)[:, None] // self.beams
        keys, values = (kept.transpose(2, 3)[:, rows, order].transpose(2, 3) for kept in (self.keys, self.values))
        return KVCache(keys.contiguous(), values.contiguous(), self.lengths, self.capacity)

    def positions(self) -> Tensor:
        """Of the next token of each beam, (B, 1)."""
        return self.lengths[:, None]

    def mask(self) -> Tensor:
        """Which slots the next token of each beam sees, its own at the end: bool (N, 1, G, M + G)."""
        own = torch.eye(self.beams, dtype=torch.bool, device=self.visible.device)
        own = own.expand(self.keys.size(1), -1, -1)
        return torch.cat((self.visible.view(-1, self.beams, self.visible.size(1)), own), 2)[:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        """q, k, v (B, H, 1, K) of each beam's next token -> (B, H, 1, K). visible: as `mask` says."""
        start, filled = self.visible.size(1), visible.size(3)
        self._make_room(filled)
        n_rows = self.keys.size(1)
        q, k, v = (
            each.view(n_rows, self.beams, *each.shape[1::2]).transpose(1, 2) for each in (q, k, v)
        )  # (N, H, G, K)
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, start:filled], values[:, :, start:filled] = k, v
        y = attend(q.to(keys.dtype), keys[:, :, :filled], values[:, :, :filled], visible=visible, causal=False)
        return y.transpose(1, 2).flatten(0, 1)[:, :, None]

    def advance(self, visible: Tensor) -> Self:
        """Count the token of each beam just attended; visible: as `mask` said.

        Raises InputError where a beam would hold more than the capacity.
        """
        if self.longest == self.capacity:
            raise InputError(
                f"{self.longest + 1} tokens do not fit the cache's capacity of {self.capacity}",
                hint="ask init_state for a larger capacity, or generate fewer tokens",
            )
        self.visible = visible[:, 0].flatten(0, 1)
        self.lengths, self.longest = self.lengths + 1, self.longest + 1
        return self

    def reorder(self, index: Tensor, rows: Tensor | None) -> Self:
        """Beams picked by `index`, as many of each row that is picked as before. rows: these rows, None: all."""
        keys, values = self.keys, self.values
        if rows is not None:
            filled = self.visible.size(1)
            rows = rows.to(keys.device)
            keys, values = (kept[:, :, :, :filled].index_select(1, rows) for kept in (keys, values))
        picked = type(self)(keys, values, self.visible[index], self.lengths[index], self.capacity)
        picked.longest = self.longest
        return picked

    def clone(self) -> Self:
        copied = type(self)(self.keys.clone(), self.values.clone(), self.visible, self.lengths, self.capacity)
        copied.longest = self.longest
        return copied

    def detach(self) -> Self:
        return self  # it is for inference

    def _make_room(self, filled: int) -> None:
        room = self.keys.size(3)
        if filled > room:
            more = max(filled, 2 * room, room + ROOM * self.beams) - room
            self.keys, self.values = (F.pad(each, (0, 0, 0, more)) for each in (self.keys, self.values))
