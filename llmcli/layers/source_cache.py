"""What a decoder looks at of its sources: computed once, shared by all rows of one source.

Shapes: L layers, N sources, G rows of each, B = N G rows, T queries, H heads, S source positions, K head size.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from llmcli.layers.attention import attend


class SourceCache:
    """keys and values: for each layer (N, H, S, K); visible (N, 1, 1, S) bool, or None where nothing is padding.

    Rows b G ... b G + G - 1 read source b. A beam search has several rows for each source: their queries are
    attended as one, so that no row has a copy of the source.
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor], visible: Tensor | None, rows_each: int = 1) -> None:
        self.keys, self.values, self.visible, self.rows_each = keys, values, visible, rows_each

    def attend(self, layer: int, q: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """q (B, H, T, K) -> (B, H, T, K). weights: takes what each source position was given, (B, H, T, S)."""
        keys, values, each = self.keys[layer], self.values[layer], self.rows_each
        rows, heads, n_new, size = q.shape
        q = q.to(keys.dtype).view(-1, each, heads, n_new, size).transpose(1, 2).flatten(2, 3)  # (N, H, G T, K)
        if weights is not None:
            given = attention_weights(q @ keys.mT * size**-0.5, self.visible)  # (N, H, G T, S)
            given = given.view(-1, heads, each, n_new, given.size(-1)).transpose(1, 2)
            weights.append(given.reshape(rows, heads, n_new, -1))
        y = attend(q, keys, values, visible=self.visible, causal=False)
        return y.view(-1, heads, each, n_new, size).transpose(1, 2).reshape(rows, heads, n_new, size)

    def reorder(self, index: Tensor) -> Self:
        """Rows picked by `index` (B',): the same sources where it keeps their order and as many rows of each."""
        sources, each = families(index, self.rows_each, len(self.keys[0]))
        if sources is None:
            return type(self)(self.keys, self.values, self.visible, each)
        visible = None if self.visible is None else self.visible[sources]
        keys, values = ([each_layer[sources] for each_layer in kept] for kept in (self.keys, self.values))
        return type(self)(keys, values, visible, each)

    def detach(self) -> Self:
        keys, values = ([each.detach() for each in kept] for kept in (self.keys, self.values))
        return type(self)(keys, values, self.visible, self.rows_each)


def families(index: Tensor, rows_each: int, count: int) -> tuple[Tensor | None, int]:
    """Of rows picked by `index` from those of `count` families of `rows_each` rows: the families that they are of, None
    for all of them in their order, and how many rows of each stand together; where these differ, a family for each row.

    An index on the CPU makes nobody wait for the device.
    """
    read = [row // rows_each for row in index.tolist()]
    found = [family for place, family in enumerate(read) if place == 0 or read[place - 1] != family]
    each = len(read) // len(found)
    if read != [family for family in found for _ in range(each)]:
        found, each = read, 1
    return None if found == list(range(count)) else torch.tensor(found), each


def attention_weights(scores: Tensor, visible: Tensor | None) -> Tensor:
    """scores (..., S) -> float32 softmax over what is visible, above 0 there and 0 elsewhere."""
    least = torch.finfo(torch.float32).tiny
    if visible is None:
        return scores.float().softmax(-1).clamp(min=least)
    return scores.float().masked_fill(~visible, -torch.inf).softmax(-1).clamp(min=least).masked_fill(~visible, 0.0)
