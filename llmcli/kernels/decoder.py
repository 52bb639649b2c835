"""The next tokens of each row through all layers of a decoder in one call, on a CPU with AVX512-BF16 (`decoder.cpp`).

Where one row of a layer of some hundred inputs is multiplied, calling torch's operators takes longer than they
compute. 30 blocks of 576 and an output layer of 49,152 words, 4 bits, two cores: 3.9 ms a token instead of 11.9. Of
many tokens it takes 0.5 to 0.9 of their time.

Shapes: B rows, T tokens of each, D width, L layers, H heads, G key-value heads, K head size, F width of the
feed-forward layer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from llmcli.kernels import build

LANES = 16  # that D, F and all products are a multiple of
HEAD_SIZES = (32, 64, 96, 128, 256)
ACTIVATIONS = ("swiglu", "relu2", "gelu")  # by their numbers in decoder.cpp
# Tokens of all rows that go through at a time: as fast as more of them, and the memory of a call, which each thread has
# for itself, stays small; between the calls Python sees Ctrl-C, which otherwise waits for all of a long prompt.
AT_ONCE = 256

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS: list[Any] = [_POINTER] * 4 + [_SIZE] + [_POINTER] * 3 + [_SIZE] * 3 + [_POINTER, ctypes.c_int]


class _Layer(ctypes.Structure):
    _fields_ = (("weight", _POINTER * 4), ("scale", _POINTER * 4))


class _Shape(ctypes.Structure):
    _fields_ = (
        ("layers", _SIZE),
        ("width", _SIZE),
        ("heads", _SIZE),
        ("kv_heads", _SIZE),
        ("head_size", _SIZE),
        ("feed_forward", _SIZE),
        ("activation", _SIZE),
        ("qk_norm", _SIZE),
        ("bits", _SIZE),
    )


@dataclass(frozen=True, slots=True)
class Weight:
    """As `few_rows` packs it. scale: of 8 bits, filled up."""

    bits: Literal[16, 8, 4]
    packed: Tensor
    scale: Tensor | None = None


def available() -> bool:
    """Whether this machine has the kernel; the first call compiles it, which takes seconds."""
    return _library() is not None


@cache
def _library() -> ctypes.CDLL | None:
    library, _ = build.load("decoder")
    if library is not None:
        library.decoder_step.argtypes, library.decoder_step.restype = _ARGUMENTS, None
    return library


class Decoder:
    """The blocks of a decoder, whose weights stay where they are: it holds them, and reads them at each step."""

    def __init__(
        self,
        layers: Sequence[Sequence[Weight]],
        *,
        width: int,
        n_heads: int,
        n_kv_heads: int,
        head_size: int,
        d_ff: int,
        activation: str,
        qk_norm: bool,
        cos: Tensor,
        sin: Tensor,
    ) -> None:
        """layers: of each qkv, out, up (gate and up for swiglu) and down, of the same bits; cos and sin (positions, K):
        those of `fused_table`."""
        self._held = [list(layer) for layer in layers]
        self._cos, self._sin = (each.to(torch.bfloat16).contiguous() for each in (cos, sin))
        bits = layers[0][0].bits
        self._shape = _Shape(
            len(layers), width, n_heads, n_kv_heads, head_size, d_ff, ACTIVATIONS.index(activation), qk_norm, bits
        )
        self._layers = _pointers(self._held)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_layers"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a copy, whose weights lie elsewhere."""
        vars(self).update(state)
        self._layers = _pointers(self._held)

    @staticmethod
    def has_sizes(*, width: int, head_size: int, d_ff: int) -> bool:
        """Whether the kernel is made for these, should the machine have it."""
        return head_size in HEAD_SIZES and not width % LANES and not d_ff % LANES

    @staticmethod
    def fits(layers: Sequence[Sequence[Weight | None]], *, width: int, head_size: int, d_ff: int) -> bool:
        """Whether the kernel is there and can do with these."""
        bits = {None if weight is None else weight.bits for layer in layers for weight in layer}
        fit = len(bits) == 1 and None not in bits
        return fit and Decoder.has_sizes(width=width, head_size=head_size, d_ff=d_ff) and available()

    def step(self, x: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
        """x (B, T, D) bfloat16, the embedded tokens -> (B, T, D), the last layer's output, normalised.

        keys and values (L, B, G, R, K) bfloat16, where the next T positions of a row are written as far as there is
        room for them; lengths (B,) int64: how many are filled.

        Raises ValueError for a state of other sizes or types, beyond which would be written, and RuntimeError where x
        asks for a gradient.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError("the kernel has no gradient: it is for layers that are used, not trained")
        shape, rows = self._shape, len(x)
        expected = (shape.layers, rows, shape.kv_heads, keys.shape[3], shape.head_size)
        if not (
            x.ndim == 3
            and x.shape[2] == shape.width
            and keys.shape == values.shape == expected
            and lengths.shape == (rows,)
            and x.dtype == keys.dtype == values.dtype == torch.bfloat16
            and lengths.dtype == torch.int64
            and keys.is_contiguous()
            and values.is_contiguous()
        ):
            raise ValueError(
                f"tokens {tuple(x.shape)} of {x.dtype} do not go with keys {tuple(keys.shape)} of {keys.dtype} "
                f"and lengths {tuple(lengths.shape)}"
            )
        lengths = lengths.contiguous()
        piece = max(1, AT_ONCE // max(1, rows))
        if x.shape[1] <= piece:
            return self._piece(x, keys, values, lengths)
        pieces = enumerate(torch.split(x, piece, dim=1))
        return torch.cat([self._piece(part, keys, values, lengths + piece * n) for n, part in pieces], dim=1)

    def _piece(self, x: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        library = _library()
        assert library is not None
        library.decoder_step(
            ctypes.byref(self._shape), self._layers, self._cos.data_ptr(), self._sin.data_ptr(), len(self._cos),
            keys.data_ptr(), values.data_ptr(), lengths.data_ptr(), *y.shape[:2], keys.shape[3], y.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return y


def _pointers(layers: Sequence[Sequence[Weight]]) -> ctypes.Array[_Layer]:
    """Where the weights lie, as decoder.cpp wants it; they must be held."""
    found = (_Layer * len(layers))()
    for into, layer in zip(found, layers, strict=True):
        into.weight = (_POINTER * 4)(*(weight.packed.data_ptr() for weight in layer))
        into.scale = (_POINTER * 4)(*(None if each.scale is None else each.scale.data_ptr() for each in layer))
    return found
