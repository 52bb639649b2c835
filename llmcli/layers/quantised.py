"""Linear layers that keep their weight in 8 or 4 bits, for inference: a token at a time they are as slow as memory, and
this is two to four times less of it.

Shapes: M rows of input, K in_features, N out_features, g weights of a group, which share a scale and a zero.

int8: w = q * scale, q in -127 ... 127 and one scale for each output. A weight is off by at most scale / 2.
int4: w = (q - 8) * scale + zero, q in 0 ... 15 and one scale and zero for each g weights of an output. A weight inside
the range of its group, which is fitted to its weights (`fit_int4`), is off by at most scale / 2.
Scales and zeros are bfloat16, as torch's kernels want them, and q is found for them as they are after rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.kernels import few_rows
from llmcli.kernels.decoder import Weight
from llmcli.layers.packing import FULL_BLOCK, layout_int4, pack_int4, unpack_int4

Bits = Literal[8, 4]
GROUP_SIZES = (32, 64, 128, 256)  # that torch's kernels for 4 bits have

ANY_ROWS = 2**31  # all go to the kernel

_BLOCK = 2**17  # weights that are fitted at a time: they stay in the core's cache
_SHRINK = 0.97  # of the first range of a group; the largest weights are few
_ROUNDS = 3  # of fitting; relative error of normal weights in groups of 32: 7.8 % without, 7.3 % with 3, 7.2 % with 5


class QuantisedLinear(nn.Module, ABC):
    """x (..., K) -> x W^T + b (..., N), without gradients: made `of` a weight, on its device.

    y has the dtype of x, or is float32 where the layer is `wide`. On the CPU x is bfloat16 in the product, the only
    type that there are fast kernels for.
    """

    wide = False  # what is wide comes from sums in float32, where the kernel gives them

    packed_rows: int  # up to so many rows the kernel takes less time than making the weight bfloat16 first
    most_rows: int  # that go to the kernel of the device of this layer; 0 where it has none

    def __init__(self, *, in_features: int, out_features: int, bias: Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.eval()

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @abstractmethod
    def dequantised(self) -> Tensor:
        """The weight (N, K) that this layer multiplies by, in bfloat16."""

    @property
    @abstractmethod
    def few_rows_weight(self) -> Weight | None:
        """What our kernels multiply by, where that is all that this layer does."""

    @abstractmethod
    def _product(self, x: Tensor) -> Tensor:
        """x (M, K) bfloat16 -> x W^T (M, N) by the kernel for few rows."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (x.requires_grad or self.training):
            raise RuntimeError("a quantised layer cannot be trained: it is made of a trained one, to be used")
        rows = x.reshape(-1, self.in_features).contiguous()  # of one place of each text, say; the kernels want it so
        if 0 < rows.shape[0] <= self.most_rows:
            y = self._product(rows if rows.dtype == torch.bfloat16 else rows.to(torch.bfloat16))
        else:
            dtype = torch.bfloat16 if rows.device.type == "cpu" else x.dtype
            y = F.linear(rows.to(dtype), self.dequantised().to(dtype))
        dtype = torch.float32 if self.wide else x.dtype
        if y.dtype != dtype:
            y = y.to(dtype)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.view(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Casts leave the weight as it is; it was packed for its device, and stays there.

        Raises InputError where it shall move.
        """
        device = self.device
        if (other := fn(torch.empty(0, device=device)).device) != device:
            raise InputError(f"a model quantised on {device} cannot move to {other}", "move it first, then quantise it")
        if self.bias is not None:
            self.bias.data = fn(self.bias.data)
        return self


class Int8Linear(QuantisedLinear):
    """A weight of 8 bits: q (N, K) int8, or as `few_rows` packs it, and scale (N,), or filled up as q is."""

    packed_rows = 32  # at 256 it takes 3 times as long as a bfloat16 product, on one CPU core at K = 576, N = 3,072

    def __init__(self, *, q: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(in_features=q.shape[1], out_features=q.shape[0], bias=bias)
        self.q: Tensor
        self.scale: Tensor
        on_cpu = q.device.type == "cpu"
        self._own = on_cpu and few_rows.available()
        self.register_buffer("q", few_rows.pack_int8(q) if self._own else q)
        fill = -len(scale) % few_rows.LANES if self._own else 0
        self.register_buffer("scale", F.pad(scale, (0, fill)))
        self.most_rows = ANY_ROWS if self._own else self.packed_rows if on_cpu else 0

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Self:
        """Of a weight (N, K)."""
        q, scale = fit_int8(weight)
        return cls(q=q, scale=scale, bias=bias)

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Whether torch's kernel reads rows of this length: it is wrong, or crashes, for others."""
        return weight.shape[1] % 16 == 0

    def dequantised(self) -> Tensor:
        q = few_rows.unpack_int8(self.q, self.out_features) if self._own else self.q
        return q.to(torch.bfloat16) * self.scale[: self.out_features, None]

    @property
    def few_rows_weight(self) -> Weight | None:
        return Weight(8, self.q, self.scale) if self._own and self.bias is None else None

    def _product(self, x: Tensor) -> Tensor:
        if self._own:
            return few_rows.product_int8(x, self.q, self.scale, self.out_features, wide=self.wide)
        return torch._weight_int8pack_mm(x, self.q, self.scale)

    @property
    def device(self) -> torch.device:
        return self.q.device


class Int4Linear(QuantisedLinear):
    """A weight of 4 bits in groups: `packed` holds q two to a byte, as the kernel of its device wants it.

    scales (K / g, N', 2): scale and zero of each group, None where the kernel is `few_rows`, which has them inside
    `packed`. N' is N filled up with zeros to what the kernel divides.
    """

    packed_rows = 128  # at 256 it takes 2.2 times as long as a bfloat16 product

    def __init__(self, *, q: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None) -> None:
        """q (N, K) in 0 ... 15, scale and zero (N, K / g)."""
        super().__init__(in_features=q.shape[1], out_features=q.shape[0], bias=bias)
        self.group_size = q.shape[1] // scale.shape[1]
        self._on_cpu = q.device.type == "cpu"  # asked once, not for every token
        self._own = self._on_cpu and self.group_size == few_rows.GROUP and few_rows.available()
        self.packed: Tensor
        self.scales: Tensor | None
        if self._own:
            self.register_buffer("packed", few_rows.pack_int4(q, scale, zero))
            self.scales, self.most_rows = None, ANY_ROWS
            return
        fill = -q.shape[0] % FULL_BLOCK
        scales = F.pad(torch.stack((scale, zero), -1), (0, 0, 0, 0, 0, fill))  # (N', K / g, 2)
        self.register_buffer("packed", pack_int4(F.pad(q, (0, 0, 0, fill))))
        self.register_buffer("scales", scales.transpose(0, 1).contiguous())
        self._filled = fill > 0
        self.most_rows = {"plain": 0, "unknown": ANY_ROWS}.get(layout_int4(q.device.type), self.packed_rows)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, *, group_size: int) -> Self:
        """Of a weight (N, K)."""
        q, scale, zero = fit_int4(weight, group_size)
        return cls(q=q, scale=scale, zero=zero, bias=bias)

    @staticmethod
    def fits(weight: Tensor, group_size: int) -> bool:
        """Whether its rows divide into groups."""
        return weight.shape[1] % group_size == 0

    def dequantised(self) -> Tensor:
        if not self._own and layout_int4(self.device.type) == "unknown":  # what the kernel makes of each input alone
            one = torch.eye(self.in_features, dtype=torch.bfloat16, device=self.device)
            return self._product(one).T.contiguous()
        if self._own:
            q, scale, zero = few_rows.unpack_int4(self.packed, self.out_features)
        else:
            q = unpack_int4(self.packed, self.in_features)  # (N', K)
            assert self.scales is not None
            scale, zero = self.scales.transpose(0, 1).unbind(-1)  # (N', K / g) each
        grouped = (q.to(torch.bfloat16) - 8).view(len(q), -1, self.group_size)  # (N', K / g, g)
        return torch.addcmul(zero[..., None], grouped, scale[..., None]).flatten(1)[: self.out_features]

    @property
    def few_rows_weight(self) -> Weight | None:
        return Weight(4, self.packed) if self._own and self.bias is None else None

    def _product(self, x: Tensor) -> Tensor:
        if self._own:
            return few_rows.product_int4(x, self.packed, self.out_features, wide=self.wide)
        kernel = torch._weight_int4pack_mm_for_cpu if self._on_cpu else torch._weight_int4pack_mm
        assert self.scales is not None
        y: Tensor = kernel(x, self.packed, self.group_size, self.scales)
        return y[:, : self.out_features] if self._filled else y

    @property
    def device(self) -> torch.device:
        return self.packed.device


def fit_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (N, K) -> q (N, K) int8, scale (N,) bfloat16: the largest weight of an output is 127."""
    weight = weight.detach().float()
    scale = (weight.abs().amax(1) / 127).to(torch.bfloat16)
    divisor = scale.float().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    return (weight / divisor).round_().clamp_(-127, 127).to(torch.int8), scale


def fit_int4(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """weight (N, K) -> q (N, K) uint8 in 0 ... 15, scale and zero (N, K / g) bfloat16.

    From the range of each group, least squares in turns: the best q for scale and zero, the best scale and zero for q.
    """
    weight = weight.detach().float()
    grouped = weight.reshape(-1, group_size)
    found = [_fit_groups(some) for some in torch.split(grouped, max(1, _BLOCK // group_size))]
    q, scale, zero = (torch.cat(parts) for parts in zip(*found, strict=True))
    return q.view_as(weight), scale.view(len(weight), -1), zero.view(len(weight), -1)


def _fit_groups(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """w (n, g) -> q (n, g) uint8, scale (n, 1) and zero (n, 1) bfloat16."""
    low, high = (each[:, None] for each in w.aminmax(dim=1))
    scale, zero = _rounded((high - low) * (_SHRINK / 15), (high + low + (high - low) * (_SHRINK / 15)) / 2)
    code, total = _codes(w, scale, zero), w.sum(1, keepdim=True)
    for _ in range(_ROUNDS):
        # minimise |scale * code + zero - w|^2 over scale and zero
        n, first = w.shape[1], code.sum(1, keepdim=True)
        spread = n * torch.linalg.vecdot(code, code)[:, None] - first.square()
        slope = (n * torch.linalg.vecdot(code, w)[:, None] - first * total) / spread
        slope = torch.where(spread > 0, slope, scale.float())  # a group of equal weights has no slope
        scale, zero = _rounded(slope, (total - slope * first) / n)
        code = _codes(w, scale, zero)
    return (code + 8).to(torch.uint8), scale, zero


def _rounded(scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    return scale.to(torch.bfloat16), zero.to(torch.bfloat16)


def _codes(w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The nearest of -8 ... 7; where all weights of a group are equal its zero is enough, and the code 0."""
    inverse = torch.where(scale == 0, 0.0, scale.float().reciprocal())
    return (w - zero.float()).mul_(inverse).round_().clamp_(-8, 7)
