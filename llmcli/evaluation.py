"""Score a run on a split: every token once, on the device, read at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from llmcli.tasks.base import Task, figures


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


@torch.inference_mode()
def evaluate(
    task: Task,
    batches: Iterable[dict[str, Any]],
    *,
    device: torch.device,
    text: dict[str, float],
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """The task's metrics over all batches.

    text: the amounts of text that the targets stand for, e.g. {"bytes": ..., "characters": ...}. on_batch is called
    with the number of targets scored so far.
    """
    task.to(device).eval()
    task.on_validation_epoch_start()
    metrics, scored = task.metrics(), 0
    for batch in batches:
        scored += task.accumulate(metrics, to_device(batch, device))
        if on_batch is not None:
            on_batch(scored)
    for metric in metrics:
        metric.update(text)
    return figures(metrics)
