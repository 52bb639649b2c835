"""The mean of the weights of several checkpoints of a run, as average_checkpoints.py of fairseq and JoeyNMT has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmcli import checkpoint
from llmcli.errors import CheckpointError, InputError

# what a training goes on from; the mean of weights has no moments of an optimizer
PROGRESS = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "current_model_state", "averaging_state")


def newest(folder: Path, count: int) -> list[Path]:
    """The last `count` checkpoints step-N.ckpt of a run folder, oldest first. Raises InputError where it has fewer."""
    if count < 2:
        raise InputError(f"last ({count}) must be at least 2: the mean of one checkpoint is that checkpoint")
    found = sorted((folder / "checkpoints").glob("step-*.ckpt"))
    if len(found) < count:
        raise InputError(
            f"last={count}: {folder} has {len(found)} checkpoint{'' if len(found) == 1 else 's'} step-N.ckpt",
            f"llm train callbacks.checkpoints.keep={count} keeps so many, one every callbacks.checkpoints.every",
        )
    return found[-count:]


def average(paths: Sequence[Path]) -> dict[str, Any]:
    """The last checkpoint with the mean of the weights of all, each summed in float64; one is in memory at a time.

    Its config says of which steps they are; what a training would go on from is left out. Tensors without a mean, such
    as counts, are those of the last. Raises CheckpointError for a file that is broken or of another model.
    """
    sums: dict[str, Tensor] = {}
    steps: list[int] = []
    content: dict[str, Any] = {}
    for path in paths:
        content = checkpoint.read(path)
        weights: dict[str, Tensor] = content["state_dict"]
        shapes = {name: value.shape for name, value in weights.items()}
        if sums and shapes != {name: value.shape for name, value in sums.items()}:
            raise CheckpointError(f"{path} holds other weights than {paths[0]}", "only those of one run have a mean")
        for name, value in weights.items():
            wide = value.to(torch.float64) if value.is_floating_point() else value
            sums[name] = sums[name] + wide if name in sums and value.is_floating_point() else wide
        steps.append(int(content["global_step"]))
    means = {
        name: (sums[name] / len(paths)).to(value.dtype) if value.is_floating_point() else value
        for name, value in content["state_dict"].items()
    }
    kept = {name: value for name, value in content.items() if name not in PROGRESS}
    config = {**content["llm"]["config"], "averaged": {"steps": steps}}
    return {**kept, "state_dict": means, "llm": {**content["llm"], "config": config}}
