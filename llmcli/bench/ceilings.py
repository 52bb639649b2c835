"""What the machine itself can do: matrix products of a type of number, and bytes read from memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from llmcli.bench.measuring import Stopwatch, repeated

DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OF_PRECISION: Mapping[str, str] = {
    "32-true": "float32",
    "bf16-mixed": "bfloat16",
    "bf16-true": "bfloat16",
    "16-mixed": "float16",
}
# Rows of the square matrices and bytes of the tensor: large enough that they do not get faster, and nothing is cached.
MATRIX = {"cpu": 2048, "cuda": 8192}
MEMORY = {"cpu": 2**28, "cuda": 2**31}
SECONDS = 0.3  # of one measurement


def names(device: torch.device) -> list[str]:
    """The types whose products are measured: those that training uses on this kind of device."""
    return ["float32", "bfloat16"] if device.type == "cpu" else ["float32", "bfloat16", "float16"]


@torch.inference_mode()
def matmul(name: str, device: torch.device, watch: Stopwatch, *, size: int | None = None) -> float:
    """Floating-point operations a second of the product of two square matrices (2 n^3 of them)."""
    n = size or MATRIX.get(device.type, MATRIX["cpu"])
    left, right = (torch.randn(n, n, device=device).to(DTYPES[name]) for _ in range(2))
    out = torch.empty(n, n, device=device, dtype=DTYPES[name])
    return 2 * n**3 / repeated(lambda: torch.mm(left, right, out=out), watch, at_least=SECONDS)


@torch.inference_mode()
def bandwidth(device: torch.device, watch: Stopwatch, *, size: int | None = None) -> float:
    """Bytes a second that a sum over a tensor of `size` bytes reads, as decoding streams the weights."""
    count = (size or MEMORY.get(device.type, MEMORY["cpu"])) // 4
    tensor = torch.ones(count, device=device)
    return 4 * count / repeated(tensor.sum, watch, at_least=SECONDS)


def measure(device: torch.device, watch: Stopwatch) -> dict[str, float]:
    """Operations a second by the type of number, and `memory`, bytes a second."""
    return {**{name: matmul(name, device, watch) for name in names(device)}, "memory": bandwidth(device, watch)}
