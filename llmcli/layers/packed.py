"""A linear layer whose bfloat16 weight lies in the order in which the kernels read it, for inference on a CPU.

The kernels are our own (`llmcli.kernels.few_rows`), or else oneDNN's.

torch's own product finds the weight in rows and brings it into that order in every call, which for one row of input
takes longer than the product. One core with AVX512-BF16, all linear layers of 12 blocks of 576 (feed-forward
1,536), by oneDNN: 7.4 ms instead of 11.7 for 1 row, 7.5 instead of 13.8 for 8, 31 instead of 37 for 64; in float32 0.9
to 1.05 of the time for 1 row, so there it is left. oneDNN's operators are those that torch's compiler uses for frozen
weights.

Shapes: K in_features, N out_features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.kernels import few_rows
from llmcli.kernels.decoder import Weight

ROWS = 8  # of the input that oneDNN's order is chosen for; it is as good for 1 and for 64


class PackedLinear(nn.Module):
    """x (..., K) -> x W^T + b (..., N), without gradients: in the dtype of x, or float32 if `wide`.

    The factors are bfloat16. What is wide comes from sums in float32, where the kernel gives them.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, wide: bool = False) -> None:
        """weight (N, K), bias (N,) or None, of any floating type, on the CPU."""
        super().__init__()
        self.wide = wide
        self.out_features, self.in_features = weight.shape
        self._own = self.in_features % few_rows.STEP == 0 and few_rows.available()
        with torch.no_grad():
            narrow = weight.detach().to(torch.bfloat16)
            self._weight: Tensor = (
                few_rows.pack_bf16(narrow) if self._own else torch.ops.mkldnn._reorder_linear_weight(narrow, ROWS)
            )
        # Neither is a parameter or a buffer: what is packed can be neither cast nor saved.
        self._bias = None if bias is None else bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError("a packed layer has no gradient: it is made of a trained one, to be used")
        rows = x.to(torch.bfloat16)
        if self._own:
            flat = rows.reshape(-1, self.in_features).contiguous()
            y = few_rows.product_bf16(flat, self._weight, self._bias, self.out_features, wide=self.wide)
            y = y.view(*x.shape[:-1], self.out_features)
        else:
            y = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")
        return y.to(torch.float32 if self.wide else x.dtype)

    @property
    def few_rows_weight(self) -> Weight | None:
        """What our kernels multiply by, where that is all that this layer does."""
        return Weight(16, self._weight) if self._own and self._bias is None else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Casts leave it as it is. Raises InputError where it shall leave the CPU."""
        if (other := fn(torch.empty(0)).device).type != "cpu":
            raise InputError(f"a model packed for the CPU cannot move to {other}", "move it first, then pack it")
        return self


def can_pack() -> bool:
    """Whether this CPU multiplies in bfloat16 and torch has the operators."""
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    there = all(hasattr(torch.ops.mkldnn, name) for name in operators)  # of a torch that was built with oneDNN
    return there and torch.cpu._is_avx512_bf16_supported()


def pack_linears(module: nn.Module) -> None:
    """Put a `PackedLinear` in the place of each nn.Linear inside, whose weight is let go."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:  # a subclass may do something else
                setattr(parent, name, PackedLinear(child.weight, child.bias))
