"""How much memory there is, and how much something takes at its highest."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")
# limit and use of a container, by the second and the first version of control groups
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def available(device: torch.device) -> int | None:
    """Bytes that can still be taken on `device` without disk as memory; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    if device.type != "cpu":
        return None
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            return None
    for limit, used in _GROUPS:
        try:
            free = min(free, int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
    return max(0, free)


class Peak:
    """The most memory in use since it was made, beyond what was in use then: of this process, or of its GPU.

    On a CPU it is what the system counts (Linux: the resident set, whose highest value is set back first). Raises
    OSError where the system does not count it so.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            (_PROCESS / "clear_refs").write_text("5")
            self.before = _status("VmRSS")

    def absolute(self) -> int:
        """The highest use itself, in bytes."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return int(torch.cuda.max_memory_allocated(self._device))
        return _status("VmHWM")

    def grown(self) -> int:
        """Bytes beyond what was in use before."""
        return max(0, self.absolute() - self.before)


def _status(field: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
