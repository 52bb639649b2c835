"""The table of precision and compile: what it picks for which machine, width and length of run, and that it says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmcli import precision
from llmcli.precision import (
    CPU_BF16_WIDTH,
    CPU_COMPILE_GAIN,
    CPU_COMPILE_SECONDS,
    GENERATION_BF16_WIDTH,
    KERNEL_BF16_WIDTH,
    Choice,
    choose,
    generation_precision,
)
from llmcli.trainer import TrainerSettings


def settings(**changes: Any) -> TrainerSettings:
    values: dict[str, Any] = {
        "max_steps": 1, "max_epochs": None, "max_time": None, "max_tokens": None,
        "accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "auto", "compile": "auto",
        "accumulate": 1, "clip_norm": None, "val_every": None, "val_batches": None, "log_every": 1, "default_steps": 5,
    }  # fmt: skip
    return TrainerSettings(**{**values, **changes})


def pick(device: str = "cpu", **changes: Any) -> Choice:
    planned: dict[str, Any] = {"width": 64, "parameters": 1000, "one_shape": True, "tokens": 1000, "seconds": None}
    given = {name: changes.pop(name) for name in list(changes) if name in planned}
    return choose(settings(**changes), device=device, **{**planned, **given})


@pytest.fixture
def bf16_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


@pytest.mark.usefixtures("bf16_cpu")
def test_bfloat16_on_a_cpu_that_has_it_from_the_measured_width_on():
    assert pick(width=CPU_BF16_WIDTH).precision == "bf16-mixed"
    narrow = pick(width=CPU_BF16_WIDTH - 1)
    assert narrow.precision == "32-true" and f"from width {CPU_BF16_WIDTH} on" in narrow.reason


def test_float32_on_a_cpu_without_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    choice = pick(width=4096)
    assert choice.precision == "32-true" and "no AVX512-BF16" in choice.reason


@pytest.mark.parametrize(("has_it", "expected"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_half_precision_on_a_gpu_whatever_the_width(monkeypatch, has_it, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_it)
    assert pick("cuda", width=8).precision == expected


def test_a_device_that_was_never_measured_gets_the_safe_choice():
    choice = pick("mps", width=4096, tokens=None, seconds=86400.0)
    assert (choice.precision, choice.compile) == ("32-true", False)
    assert "not measured on mps" in choice.reason


@pytest.mark.usefixtures("bf16_cpu")
def test_what_was_asked_for_wins_and_is_said():
    asked = pick(width=1024, precision="32-true", compile=True)
    assert asked == Choice("32-true", True, "float32 (as asked), compile on, as asked")
    off = pick(width=8, precision="bf16-true", compile=False)
    assert off.reason == "bfloat16 weights (as asked), compile off, as asked"


def test_compiling_must_earn_back_its_cost():
    """A run as long as compiling takes saves less than it costs; the break-even follows from the measured gain."""
    even = CPU_COMPILE_SECONDS / (1 - 1 / CPU_COMPILE_GAIN)
    assert not pick(tokens=None, seconds=0.99 * even).compile
    longer = pick(tokens=None, seconds=1.01 * even)
    assert longer.compile and f"compiling takes {CPU_COMPILE_SECONDS:.0f} s" in longer.reason


def test_the_nearer_limit_decides_how_long_a_run_is():
    many = {"parameters": 10**8, "tokens": 10**9}
    assert pick(**many, seconds=None).compile
    assert not pick(**many, seconds=30.0).compile
    assert not pick(parameters=10**5, tokens=10**6, seconds=86400.0).compile


def test_every_precision_that_settings_take_has_a_name():
    from typing import get_args

    from llmcli.trainer import Precision

    assert set(precision._NAMES) == set(get_args(Precision)) - {"auto"}


def test_batches_of_many_shapes_are_not_compiled_for_unless_asked():
    for seconds in (None, 1e6):
        found = pick(one_shape=False, seconds=seconds)
        assert not found.compile and found.reason.endswith("compile off: batches of many shapes")
    assert pick(one_shape=False, compile="true").compile


@pytest.mark.usefixtures("bf16_cpu")
@pytest.mark.parametrize(
    ("device", "kind", "width", "dtype", "why"),
    [
        ("cpu", "attention", GENERATION_BF16_WIDTH, torch.bfloat16, "AVX512-BF16"),
        ("cpu", "attention", GENERATION_BF16_WIDTH - 1, torch.float32, f"from width {GENERATION_BF16_WIDTH} on"),
        ("cpu", "recurrent", 4096, torch.float32, "not measured for models of kind recurrent"),
        ("mps", "attention", 4096, torch.float32, "the default on mps"),
    ],
)
def test_generation_in_bfloat16_where_it_pays(device, kind, width, dtype, why):
    found, reason = generation_precision(device=device, kind=kind, width=width, by_kernel=False)
    assert found == dtype and why in reason


@pytest.mark.usefixtures("bf16_cpu")
def test_a_kernel_that_takes_whole_steps_makes_bfloat16_pay_sooner():
    for width, dtype in ((KERNEL_BF16_WIDTH, torch.bfloat16), (KERNEL_BF16_WIDTH - 1, torch.float32)):
        assert generation_precision(device="cpu", kind="attention", width=width, by_kernel=True)[0] == dtype


def test_generation_in_float32_where_the_hardware_has_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    for device in ("cpu", "cuda"):
        assert generation_precision(device=device, kind="attention", width=4096, by_kernel=False)[0] == torch.float32
