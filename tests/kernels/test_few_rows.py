"""The kernels for few rows: the same products as in float64, for every shape, and what happens without them."""

from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.kernels import build, few_rows
from llmcli.layers.packed import PackedLinear
from llmcli.layers.quantised import Int4Linear, Int8Linear, fit_int4, fit_int8

has_kernels = pytest.mark.skipif(not few_rows.available(), reason=f"no kernels: {build.load('few_rows')[1]}")
SIZES = [(1, 32, 16), (1, 576, 49), (2, 64, 17), (3, 32, 31), (4, 96, 32), (7, 64, 33), (8, 32, 5), (9, 96, 100)]


def near(y, x, weight, bias=None):
    """y is x W^T to bfloat16's rounding of the result."""
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=2**-8 * exact.abs().max().item() / 8)


@has_kernels
@pytest.mark.parametrize(("m", "k", "n"), SIZES)
@pytest.mark.parametrize("threads", [1, 2])
def test_products_are_exact_but_for_the_rounding_of_the_result(m, k, n, threads):
    weight, x, bias = torch.randn(n, k), torch.randn(m, k).bfloat16(), torch.randn(n).bfloat16()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        narrow = weight.bfloat16()
        near(few_rows.product_bf16(x, few_rows.pack_bf16(narrow), None, n, wide=False), x, narrow)
        near(few_rows.product_bf16(x, few_rows.pack_bf16(narrow), bias, n, wide=False), x, narrow, bias)
        q, scale = fit_int8(weight)
        filled = torch.nn.functional.pad(scale, (0, -n % few_rows.LANES))
        near(
            few_rows.product_int8(x, few_rows.pack_int8(q), filled, n, wide=False),
            x,
            q.double() * scale.double()[:, None],
        )
        q, scale, zero = fit_int4(weight, few_rows.GROUP)
        wide = [each.double().repeat_interleave(few_rows.GROUP, 1) for each in (scale, zero)]
        exact = (q.double() - 8) * wide[0] + wide[1]
        near(few_rows.product_int4(x, few_rows.pack_int4(q, scale, zero), n, wide=False), x, exact)
    finally:
        torch.set_num_threads(before)


@has_kernels
def test_nothing_is_written_beside_the_result():
    """Outputs that fill no block: what lies behind them in memory stays."""
    n, k = 21, 32
    weight, x = torch.randn(n, k).bfloat16(), torch.randn(1, k).bfloat16()
    packed, room = few_rows.pack_bf16(weight), torch.full((64,), 7.0, dtype=torch.bfloat16)
    library, _ = build.load("few_rows")
    library.bf16_rows(x.data_ptr(), 1, k, packed.data_ptr(), None, n, room.data_ptr(), 0, 1)
    near(room[None, :n], x, weight)
    assert (room[n:] == 7).all()


@has_kernels
def test_wide_results_are_the_sums_in_float32():
    weight, x = torch.randn(21, 64), torch.randn(3, 64).bfloat16()
    q, scale = fit_int8(weight)
    filled = torch.nn.functional.pad(scale, (0, -21 % few_rows.LANES))
    q4, scale4, zero4 = fit_int4(weight, few_rows.GROUP)
    wide = [each.double().repeat_interleave(few_rows.GROUP, 1) for each in (scale4, zero4)]
    for y, exact in (
        (few_rows.product_bf16(x, few_rows.pack_bf16(weight), None, 21, wide=True), weight.bfloat16().double()),
        (few_rows.product_int8(x, few_rows.pack_int8(q), filled, 21, wide=True), q.double() * scale.double()[:, None]),
        (
            few_rows.product_int4(x, few_rows.pack_int4(q4, scale4, zero4), 21, wide=True),
            (q4.double() - 8) * wide[0] + wide[1],
        ),
    ):
        assert y.dtype == torch.float32
        torch.testing.assert_close(y.double(), x.double() @ exact.T, rtol=1e-5, atol=1e-5)


@settings(max_examples=25)
@given(st.integers(1, 70), st.integers(1, 4), st.integers(0, 10**6))
def test_what_is_packed_can_be_read_again(n, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 16, (n, groups * few_rows.GROUP), dtype=torch.uint8, generator=generator)
    scale, zero = torch.randn(2, n, groups, generator=generator).bfloat16()
    found = few_rows.unpack_int4(few_rows.pack_int4(q, scale, zero), n)
    assert all(torch.equal(*both) for both in zip(found, (q, scale, zero), strict=True))
    wide = torch.randint(-127, 128, (n, groups * 32), generator=generator).to(torch.int8)
    assert torch.equal(few_rows.unpack_int8(few_rows.pack_int8(wide), n), wide)


@has_kernels
def test_layers_compute_the_same_without_kernels(monkeypatch):
    """The switch: torch's operators, in another order of summing."""
    weight, bias, x = torch.randn(48, 64), torch.randn(48), torch.randn(2, 3, 64).bfloat16()
    makers = [
        lambda: PackedLinear(weight, bias),
        lambda: Int8Linear.of(weight, bias),
        lambda: Int4Linear.of(weight, bias, group_size=32),
    ]
    with torch.no_grad():
        own = [make() for make in makers]
        monkeypatch.setattr(few_rows, "available", lambda: False)
        others = [make() for make in makers]
        for first, second in zip(own, others, strict=True):
            assert first._own and not second._own
            assert (first(x) - second(x)).float().norm() < 0.008 * second(x).float().norm()
            assert first(x[:0]).shape == (0, 3, 48)
        for first, second in zip(own[1:], others[1:], strict=True):
            assert torch.equal(first.dequantised(), second.dequantised())


@has_kernels
def test_a_library_is_compiled_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_CACHE", str(tmp_path))
    library, reason = build.load.__wrapped__("few_rows")
    made = list((tmp_path / "kernels").iterdir())
    assert isinstance(library, ctypes.CDLL) and reason == "" and [each.suffix for each in made] == [".so"]
    monkeypatch.setattr(build.subprocess, "run", lambda *args, **kwargs: pytest.fail("compiled again"))
    assert build.load.__wrapped__("few_rows")[0] is not None


def test_without_kernels_it_is_said_why(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_KERNELS", "0")
    assert build.load.__wrapped__("few_rows") == (None, "LLM_KERNELS=0")
    monkeypatch.delenv("LLM_KERNELS")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert build.load.__wrapped__("few_rows")[1] == "this is no Linux on a CPU with AVX512-BF16"


@has_kernels
def test_a_compiler_that_is_missing_or_fails_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "nothing"))
    reason = f"there is no C++ compiler {tmp_path}/nothing (CXX=COMPILER names another)"
    assert build.load.__wrapped__("few_rows") == (None, reason)
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'unknown option' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    assert build.load.__wrapped__("few_rows") == (None, f"{failing} did not compile few_rows.cpp: unknown option")
    assert not list((tmp_path / "kernels").iterdir())


@has_kernels
def test_neither_a_user_without_a_home_nor_odd_words_of_a_compiler_are_errors(monkeypatch, tmp_path):
    def none() -> None:
        raise RuntimeError("Could not determine home directory.")

    with monkeypatch.context() as patch:
        patch.setattr(build, "cache_root", none)
        assert build.load.__wrapped__("few_rows")[1].endswith("few_rows.cpp: Could not determine home directory.")
    monkeypatch.setenv("LLM_CACHE", str(tmp_path))
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\nprintf '\\377 option' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    assert build.load.__wrapped__("few_rows")[1] == f"{failing} did not compile few_rows.cpp: \ufffd option"
    failing.write_text("#!/bin/sh\necho waiting >&2\nexec sleep 9\n")
    monkeypatch.setattr(build, "SECONDS", 0.2)
    assert build.load.__wrapped__("few_rows")[1].endswith("timed out after 0.2 seconds")
