"""How a loaded run is made ready for use: its device, and the precision of its weights (the option `precision`)."""

from __future__ import annotations

from typing import Literal

import torch

from llmcli.errors import InputError
from llmcli.inference import fuse, prepare_for_generation
from llmcli.layers.quantised import Bits
from llmcli.mistakes import did_you_mean, nearest
from llmcli.models.base import Backbone
from llmcli.precision import generation_precision
from llmcli.quantise import quantise, storage_bytes
from llmcli.tasks.base import Task

Precision = Literal["auto", "32", "bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("auto", "32", "bf16", "int8", "int4")
_BITS: dict[str, Bits] = {"int8": 8, "int4": 4}


def precision_of(value: object) -> Precision:
    """What an option `precision` says. Raises InputError for anything else."""
    for precision in PRECISIONS:
        if str(value) == precision:
            return precision
    meant = did_you_mean(nearest(str(value), PRECISIONS)).strip()
    raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, not {value}", meant)


def prepare(task: Task, precision: Precision, device: torch.device | str, *, generating: bool = False) -> str:
    """Move a task to its device and give its weights their precision, in place and one way -> what became of them.

    auto: as they are; generating, what `generation_precision` says. int8, int4: the matrices (`llmcli.quantise`); what
    else there is, with the state that decoding keeps, is bfloat16 where the device multiplies in it.
    """
    device = torch.device(device)
    task.to(device)
    if precision == "auto":
        return _as_is_fastest(task, device) if generating else ""
    if precision in ("32", "bf16"):
        prepare_for_generation(task, torch.float32 if precision == "32" else torch.bfloat16)
        return ""
    fuse(task)
    report = quantise(task, bits=_BITS[precision])
    task.requires_grad_(False)
    if _multiplies_bf16(device):
        task.to(torch.bfloat16)
    report.after = storage_bytes(task)
    return str(report)


def _as_is_fastest(task: Task, device: torch.device) -> str:
    model = getattr(task, "model", None)
    if not isinstance(model, Backbone):
        return ""
    dtype, why = generation_precision(device=device.type, kind=model.kind, width=model.d_model)
    if dtype == torch.float32:
        return ""
    prepare_for_generation(task, dtype)
    return f"bfloat16 ({why})"


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
