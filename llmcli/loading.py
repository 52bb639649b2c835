"""How a loaded run is made ready for use: its device, and the precision of its weights (the option `precision`)."""

from __future__ import annotations

from typing import Literal

import torch

from llmcli.errors import InputError
from llmcli.inference import fuse, prepare_for_generation, settle
from llmcli.kernels import build, decoder
from llmcli.layers.quantised import Bits
from llmcli.mistakes import did_you_mean, nearest
from llmcli.models.base import Backbone, WordVectorModel
from llmcli.precision import KERNEL_BF16_WIDTH, generation_precision
from llmcli.quantise import check_fits, quantise, storage_bytes
from llmcli.tasks.base import Task

Precision = Literal["auto", "32", "bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("auto", "32", "bf16", "int8", "int4")
_BITS: dict[str, Bits] = {"int8": 8, "int4": 4}
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def precision_of(value: object) -> Precision:
    """What an option `precision` says. Raises InputError for anything else."""
    for precision in PRECISIONS:
        if str(value) == precision:
            return precision
    meant = did_you_mean(nearest(str(value), PRECISIONS)).strip()
    raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, not {value}", meant)


def check_precision(task: Task, precision: Precision) -> None:
    """Raises InputError where a task has no weights that this precision would change."""
    if precision in ("auto", "32"):
        return
    if next(task.parameters(), None) is None:  # counts, which are exact in the precision that they have
        raise InputError(
            f"precision={precision} is that of weights, and a {type(task).__name__} run has none",
            "leave out precision=",
        )
    if isinstance(getattr(task, "model", None), WordVectorModel):
        raise InputError(
            f"precision={precision} is that of layers, and a {type(task).__name__} run has none: its vectors are "
            "looked up and compared as they were trained",
            "leave out precision=",
        )
    if precision in _BITS:
        check_fits(task, bits=_BITS[precision])


def prepare(task: Task, precision: Precision, device: torch.device | str, *, generating: bool = False) -> str:
    """Move a task to its device and give its weights their precision, in place and one way -> what became of them.

    generating: for nothing else; what only scoring needs is let go of.

    auto: as they are; generating, what `generation_precision` says. int8, int4: the matrices (`llmcli.quantise`); what
    else there is, with the state that decoding keeps, has the type of `generation_precision` where the task generates.

    Raises InputError as `check_precision`.
    """
    check_precision(task, precision)
    device = torch.device(device)
    if generating and (forget := getattr(task, "forget_reference", None)) is not None:
        forget()  # before it is moved and cast
    task.to(device)
    if next(task.parameters(), None) is None:  # counts
        return ""
    dtype, why = _fastest(task, device)
    if precision == "auto":
        if not generating:
            return ""
        prepare_for_generation(task, dtype)
        return f"{_NAMES[dtype]} ({why})" if why else ""
    if precision == "32":
        prepare_for_generation(task, torch.float32)
        return ""
    slower = _slower(device)
    if precision == "bf16":
        prepare_for_generation(task, torch.bfloat16)
        return f"bfloat16 ({slower})" if slower else ""
    fuse(task)
    report = quantise(task, bits=_BITS[precision])
    task.to(dtype).requires_grad_(False)
    settle(task)
    report.after = storage_bytes(task)
    return f"{report}; {slower}" if slower else str(report)


def _slower(device: torch.device) -> str:
    """Why the kernels are torch's on a CPU that could have our own."""
    reason = build.load("few_rows")[1] if device.type == "cpu" else ""
    return f"torch's kernels, the slower ones: {reason}" if reason else ""


def _fastest(task: Task, device: torch.device) -> tuple[torch.dtype, str]:
    """What a task that generates is fastest in, and why, if that is worth saying; float32 for every other."""
    model = getattr(task, "model", None)
    if not isinstance(model, Backbone) or not task.generates:
        return torch.float32, ""
    wide = device.type == "cpu" and model.steps_by_kernel and model.d_model >= KERNEL_BF16_WIDTH
    by_kernel = wide and decoder.available()  # not asked for others: the first time it is compiled
    dtype, why = generation_precision(device=device.type, kind=model.kind, width=model.d_model, by_kernel=by_kernel)
    could = wide and torch.cpu._is_avx512_bf16_supported()
    if dtype == torch.float32 and (by_kernel or not could):
        return dtype, ""  # as anywhere
    return dtype, "; ".join(filter(None, (why, _slower(device))))
