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

ROOM = 8  # tokens of each beam for which room is made at once, and after which slots that none needs are dropped


class TreeCache:
    """keys and values (L, N, H, R, K), M slots of them filled; visible (B, M) bool: those that a beam descends from.

    In each step the beams of a row fill a slot each, and are G queries over all slots of the row. Picking other beams
    changes what they descend from and copies no key, unless whole rows are picked; now and then the slots are dropped
    that no beam descends from any more. lengths (B,): tokens of each beam.
    """

    def __init__(self, keys: Tensor, values: Tensor, visible: Tensor, lengths: Tensor, capacity: int) -> None:
        self.keys, self.values, self.visible, self.lengths = keys, values, visible, lengths
        self.capacity = capacity  # the most tokens that a beam can hold
        self.beams = len(visible) // keys.size(1)
        self.longest = 0  # bound of `lengths`, which nobody need ask the device for
        self.crowded = visible.size(1) + ROOM * self.beams  # slots at which some are dropped

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

    def rows(self, index: Tensor | None = None) -> KVCache:
        """The beams picked by `index` (B',), None: all, with a copy of all that it has read for each."""
        device = self.visible.device
        index = torch.arange(len(self.visible), device=device) if index is None else index.to(device)
        order = (~self.visible[index]).int().argsort(dim=1, stable=True)[:, : self.longest]  # (B', T): slots, in order
        picked = index[:, None] // self.beams
        keys, values = (kept.transpose(2, 3)[:, picked, order].transpose(2, 3) for kept in (self.keys, self.values))
        return KVCache(keys.contiguous(), values.contiguous(), self.lengths[index], self.capacity)

    def positions(self) -> Tensor:
        """Of the next token of each beam, (B, 1)."""
        return self.lengths[:, None]

    def mask(self) -> Tensor:
        """Which slots the next token of each beam sees, its own at the end: bool (N, 1, G, M + G)."""
        own = torch.eye(self.beams, dtype=torch.bool, device=self.visible.device)
        n_rows = self.keys.size(1)
        seen = self.visible.view(n_rows, self.beams, self.visible.size(1))
        return torch.cat((seen, own.expand(n_rows, -1, -1)), 2)[:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        """q, k, v (B, H, 1, K) of each beam's next token -> (B, H, 1, K). visible: as `mask` says."""
        start, filled = self.visible.size(1), visible.size(3)
        self._make_room(filled)
        n_rows = self.keys.size(1)
        shape = (n_rows, self.beams, q.size(1), q.size(3))
        q, k, v = (each.view(shape).transpose(1, 2) for each in (q, k, v))  # (N, H, G, K)
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
            first, count = int(rows[0]), len(rows)
            if torch.equal(rows, torch.arange(first, first + count)):  # sources in order of length end in that order
                keys, values = (kept[:, first : first + count] for kept in (keys, values))
            else:
                at = rows.to(keys.device)
                keys, values = (kept[:, :, :, :filled].index_select(1, at) for kept in (keys, values))
        picked = type(self)(keys, values, self.visible[index], self.lengths[index], self.capacity)
        picked.longest, picked.crowded = self.longest, self.crowded
        if picked.visible.size(1) >= picked.crowded:
            picked._drop_unseen()
        return picked

    def clone(self) -> Self:
        copied = type(self)(self.keys.clone(), self.values.clone(), self.visible, self.lengths, self.capacity)
        copied.longest, copied.crowded = self.longest, self.crowded
        return copied

    def detach(self) -> Self:
        return self  # it is for inference

    def _drop_unseen(self) -> None:
        """Move the slots that any beam of a row descends from together, unless that spares little."""
        n_rows, n_slots, more = self.keys.size(1), self.visible.size(1), ROOM * self.beams
        self.crowded = n_slots + more
        visible = self.visible.view(n_rows, self.beams, n_slots)
        seen = visible.any(1)  # (N, M)
        most = int(seen.sum(1).max())
        if 4 * most > 3 * n_slots:
            return
        order = (~seen).int().argsort(dim=1, stable=True)[:, :most]  # (N, M'), those that are seen first and in order
        self.visible = visible.gather(2, order[:, None].expand(-1, self.beams, -1)).flatten(0, 1)
        self.crowded = most + more
        slots = F.pad(order, (0, more))  # with room behind them
        self.keys, self.values = (_slots(each, slots) for each in (self.keys, self.values))

    def _make_room(self, filled: int) -> None:
        room = self.keys.size(3)
        if filled > room:
            shape = [*self.keys.shape[:3], max(filled, room + 2 * ROOM * self.beams), self.keys.size(4)]
            old, self.keys, self.values = (
                (self.keys, self.values),
                self.keys.new_empty(shape),
                self.keys.new_empty(shape),
            )
            self.keys[:, :, :, :room], self.values[:, :, :, :room] = old


def _slots(kept: Tensor, slots: Tensor) -> Tensor:
    """kept (L, N, H, R, K), slots (N, M) -> (L, N, H, M, K), whole vectors at a time."""
    n_layers, n_rows, heads, room, size = kept.shape
    blocks = torch.arange(n_layers * n_rows * heads, device=kept.device).view(n_layers, n_rows, heads, 1) * room
    flat = (blocks + slots[None, :, None]).flatten()
    return kept.reshape(-1, size).index_select(0, flat).view(n_layers, n_rows, heads, -1, size)
