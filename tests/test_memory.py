"""How much memory there is and how much was taken, as the system counts it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from llmcli import memory

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
CPU = torch.device("cpu")


@linux
def test_available_memory_is_what_the_system_says():
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(fields["MemTotal"].split()[0]) * 1024
    found = memory.available(CPU)
    assert found is not None and 0 < found < total


def test_a_limit_of_the_container_counts(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("3000000\n")
    (tmp_path / "current").write_text("1000000\n")
    (tmp_path / "none").write_text("max\n")
    groups = ((tmp_path / "none", tmp_path / "current"), (tmp_path / "max", tmp_path / "current"))
    monkeypatch.setattr(memory, "_GROUPS", groups)
    assert memory.available(CPU) == 2_000_000


def test_other_devices_do_not_say():
    assert memory.available(torch.device("meta")) is None


@linux
def test_the_peak_is_of_what_was_freed_again_too():
    torch.ones(1)
    peak = memory.Peak(CPU)
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    del block
    assert 60 * 2**20 < peak.grown() < 90 * 2**20
    assert memory.Peak(CPU).grown() < 30 * 2**20
