"""Which precision and whether to compile: a small measured table, never a timing at launch.

The figures behind it are in docs/benchmarks.md. The choice is said in one line, written to the run's config and reused
by resume; trainer.precision and trainer.compile override it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmcli.errors import InputError
from llmcli.trainer import TrainerSettings

# On CPUs with AVX512-BF16, bfloat16 matrix products pay from this width on; below, the casts cost more than they save.
CPU_BF16_WIDTH = 128
# Cold compilation takes about this long on two cores; a run must be this many times longer to earn it back.
CPU_COMPILE_SECONDS = 60.0
CPU_COMPILE_GAIN = 1.3
CUDA_COMPILE_SECONDS = 60.0
CUDA_COMPILE_GAIN = 1.5
# Bfloat16 weights (packed on a CPU) should pay once they no longer lie in the core's cache; narrower models are quick
# in float32, which rounds away nothing. Measured at width 576 alone, and for attention models alone.
GENERATION_BF16_WIDTH = 512
# Where one kernel takes tokens through all layers (llmcli/kernels/decoder.cpp), which it does in bfloat16. Measured
# beside float32 on two cores: 0.31 instead of 0.72 ms a token at width 128 with 2 layers, 0.60 instead of 4.1 at 256
# with 4.
KERNEL_BF16_WIDTH = 128


@dataclass(frozen=True, slots=True)
class Choice:
    """What Lightning gets, and the reason in words."""

    precision: str
    compile: bool
    reason: str


def choose(
    settings: TrainerSettings,
    *,
    device: str,
    width: int,
    parameters: int,
    one_shape: bool,
    tokens: int | None,
    seconds: float | None,
) -> Choice:
    """device: "cpu", "cuda", "mps"; width: d_model; parameters: in matrices; one_shape: of all batches;
    tokens, seconds: the planned run.

    Raises InputError for float16 on a CPU, which has no kernels for it.
    """
    precision, why = str(settings.precision), "as asked"
    if precision == "16-mixed" and device == "cpu":
        raise InputError(
            "trainer.precision=16-mixed needs a GPU, and this run is on the CPU", "trainer.precision=bf16-mixed or auto"
        )
    if precision == "auto":
        precision, why = _precision(device, width)
    if settings.compile != "auto":
        compiled = bool(settings.compile)
        return Choice(precision, compiled, f"{_NAMES[precision]} ({why}), compile {_on(compiled)}, as asked")
    if not one_shape:  # each new shape would be compiled for
        return Choice(precision, False, f"{_NAMES[precision]} ({why}), compile off: batches of many shapes")
    compiled, because = _compile(device, parameters, tokens, seconds)
    return Choice(
        precision,
        compiled,
        f"{_NAMES[precision]} ({why}), compile {_on(compiled)}: {because}",
    )


def _on(compiled: bool) -> str:
    return "on" if compiled else "off"


_NAMES = {
    "32-true": "float32",
    "bf16-mixed": "bfloat16",
    "16-mixed": "float16",
    "bf16-true": "bfloat16 weights",
}


def _precision(device: str, width: int) -> tuple[str, str]:
    if device == "cuda":
        if torch.cuda.is_bf16_supported():
            return "bf16-mixed", "the GPU has it"
        return "16-mixed", "the GPU has no bfloat16"
    if device == "cpu":
        if not torch.cpu._is_avx512_bf16_supported():
            return "32-true", "this CPU has no AVX512-BF16"
        if width < CPU_BF16_WIDTH:
            return "32-true", f"bfloat16 pays from width {CPU_BF16_WIDTH} on this CPU"
        return "bf16-mixed", "AVX512-BF16"
    return "32-true", f"the default on {device}"


def generation_precision(*, device: str, kind: str, width: int, by_kernel: bool) -> tuple[torch.dtype, str]:
    """What `precision=auto` of `llm generate` and `llm chat` means -> the type of the weights, and why.

    device: "cpu", "cuda", "mps"; kind and width: of the backbone; by_kernel: its steps are those of a kernel.
    """
    if device not in ("cpu", "cuda"):
        return torch.float32, f"the default on {device}"
    if kind != "attention":
        return torch.float32, f"bfloat16 was not measured for models of kind {kind}"
    least = KERNEL_BF16_WIDTH if by_kernel else GENERATION_BF16_WIDTH
    if width < least:
        return torch.float32, f"bfloat16 pays from width {least} on"
    if device == "cuda":
        has_it = torch.cuda.is_bf16_supported()
        return (torch.bfloat16, "the GPU has it") if has_it else (torch.float32, "the GPU has no bfloat16")
    if not torch.cpu._is_avx512_bf16_supported():
        return torch.float32, "this CPU has no AVX512-BF16"
    return torch.bfloat16, "AVX512-BF16"


def _compile(device: str, parameters: int, tokens: int | None, seconds: float | None) -> tuple[bool, str]:
    if device not in ("cpu", "cuda"):
        return False, f"not measured on {device}"
    cost, gain = (
        (CPU_COMPILE_SECONDS, CPU_COMPILE_GAIN) if device == "cpu" else (CUDA_COMPILE_SECONDS, CUDA_COMPILE_GAIN)
    )
    rate = 2e11 if device == "cpu" else 1e14  # floating-point operations a second in training, rounded
    planned = seconds if seconds is not None else float("inf")
    if tokens is not None:
        planned = min(planned, 6.0 * parameters * tokens / rate)
    saved = planned * (1 - 1 / gain)
    if saved > cost:
        return True, f"about {planned / 60:.0f} min planned, compiling takes {cost:.0f} s"
    return False, "too short a run to earn it back"
