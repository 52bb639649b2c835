"""What the figures were measured on: a figure without its machine and versions says little."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import llmcli
from llmcli.bench.measuring import load


def describe() -> dict[str, Any]:
    """Processor, cores, threads, accelerator, load average before the measurement, versions."""
    average, cores = load()
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "load_average": average,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }
    versions = {"llmcli": llmcli.__version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    for name in ("pytorch-lightning", "transformers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # transformers is no dependency
            continue
    return {"machine": machine, "versions": versions}


def _processor() -> str:
    """As the system names it; `platform.processor` is empty on Linux."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
