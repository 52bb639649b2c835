"""Keys and values of the sources that a decoder attends to: computed once, shared by all rows of one source.

Shapes: L layers, N sources, G rows of each, B = N G rows, T queries, H heads, S source positions, K head size.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.layers.attention import attend


class SourceCache:
    """keys and values: for each layer (N, H, S, K); visible (N, 1, 1, S) bool, or None where nothing is padding.

    Rows b G ... b G + G - 1 read source b. A beam search has several rows for each source: their queries are
    attended as one, so that no row has a copy of the source.
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor], visible: Tensor | None, rows_each: int = 1) -> None:
        self.keys, self.values, self.visible, self.rows_each = keys, values, visible, rows_each

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """q (B, H, T, K) -> (B, H, T, K)."""
        keys, values, each = self.keys[layer], self.values[layer], self.rows_each
        q = q.to(keys.dtype)
        if each == 1:
            return attend(q, keys, values, visible=self.visible, causal=False)
        rows, heads, n_new, size = q.shape
        q = q.view(-1, each, heads, n_new, size).transpose(1, 2).flatten(2, 3)  # (N, H, G T, K)
        y = attend(q, keys, values, visible=self.visible, causal=False)
        return y.view(-1, heads, each, n_new, size).transpose(1, 2).reshape(rows, heads, n_new, size)

    def reorder(self, index: Tensor) -> Self:
        """Rows picked by `index` (B',): the same sources where it keeps their order and as many rows of each."""
        read = index // self.rows_each  # (B',)
        sources = read[F.pad(read[1:] != read[:-1], (1, 0), value=True)]
        each = len(read) // len(sources)
        if not torch.equal(sources.repeat_interleave(each), read):
            sources, each = read, 1
        if torch.equal(sources, torch.arange(len(self.keys[0]), device=index.device)):
            return type(self)(self.keys, self.values, self.visible, each)
        visible = None if self.visible is None else self.visible[sources]
        keys, values = ([each_layer[sources] for each_layer in kept] for kept in (self.keys, self.values))
        return type(self)(keys, values, visible, each)

    def detach(self) -> Self:
        keys, values = ([each.detach() for each in kept] for kept in (self.keys, self.values))
        return type(self)(keys, values, self.visible, self.rows_each)
