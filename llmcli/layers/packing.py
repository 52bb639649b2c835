"""Weights of 4 bits, two to a byte, in the order in which torch's kernels read them.

Shapes: K in_features, N out_features, a multiple of `FULL_BLOCK`.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["blocks of 64", "blocks of 32", "unknown", "plain"]

FULL_BLOCK = 64  # outputs that every kernel divides; a part of such a block would have another order
_INNER_TILES = 8  # of the CUDA kernel: 16 weights each; 2 where K is not a multiple of 128


@cache
def layout_int4(device: str) -> Layout:
    """How the kernel of this kind of device reads a weight; plain: there is none.

    On a CPU it depends on the instructions that it has, so it is looked at: blocks of 64 outputs (AVX-512), of which a
    byte holds the n-th and the (n + 32)-th, or of 32 in the same way (AVX2), all of one input after the other.
    """
    if device == "cuda":
        return "unknown"  # and never needed: the kernel takes any number of rows
    if device != "cpu":
        return "plain"
    q = (torch.arange(FULL_BLOCK * 32) * 7 % 16).to(torch.uint8).view(FULL_BLOCK, 32)
    packed = pack_int4(q)
    for size, name in ((64, "blocks of 64"), (32, "blocks of 32")):
        if torch.equal(_of_blocks(packed, 32, size), q):
            return name  # type: ignore[return-value]
    return "unknown"


def pack_int4(q: Tensor) -> Tensor:
    """q (N, K) uint8 in 0 ... 15 -> as the kernel of its device reads it; without one, rows of K / 2 bytes."""
    packed: Tensor
    if q.device.type == "cpu":
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.to(torch.int32), 2)
        return packed
    packed = _pairs(q)
    if q.device.type == "cuda":
        packed = torch.ops.aten._convert_weight_to_int4pack(packed, _INNER_TILES if q.shape[1] % 128 == 0 else 2)
    return packed


def unpack_int4(packed: Tensor, in_features: int) -> Tensor:
    """What `pack_int4` packed (N, K). Raises NotImplementedError where the order is not known."""
    match layout_int4(packed.device.type):
        case "blocks of 64":
            return _of_blocks(packed, in_features, 64)
        case "blocks of 32":
            return _of_blocks(packed, in_features, 32)
        case "plain":
            return _of_pairs(packed)
        case _:
            raise NotImplementedError(f"the order of weights of 4 bits on {packed.device}")


def _pairs(q: Tensor) -> Tensor:
    return q[:, ::2] << 4 | q[:, 1::2]


def _of_pairs(packed: Tensor) -> Tensor:
    return torch.stack((packed >> 4, packed & 15), -1).flatten(1)


def _of_blocks(packed: Tensor, in_features: int, size: int) -> Tensor:
    pairs = packed.view(-1, in_features, size // 2)  # (N / size, K, size / 2)
    return torch.stack((pairs & 15, pairs >> 4), 1).transpose(2, 3).reshape(-1, in_features)
