"""Linear layers of 8 and 4 bits: how far a weight is off, that the kernels multiply by it, and what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import InputError
from llmcli.kernels import build, few_rows
from llmcli.layers import packing
from llmcli.layers.packing import FULL_BLOCK, layout_int4, pack_int4, unpack_int4
from llmcli.layers.quantised import Int4Linear, Int8Linear, fit_int4, fit_int8


@pytest.fixture(autouse=True, params=["own", "torch's"])
def kernels(request, monkeypatch):
    """Every test with our kernels, where this CPU has them, and with torch's."""
    if request.param == "torch's":
        monkeypatch.setattr(few_rows, "available", lambda: False)
    elif not few_rows.available():
        pytest.skip(build.load("few_rows")[1])


def weight(n=48, k=64, seed=0):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.1


def decoded(q, scale, zero):
    """The weight that int4 stands for, in float32: (q - 8) * scale + zero."""
    group = q.shape[1] // scale.shape[1]
    scale, zero = (each.float().repeat_interleave(group, 1) for each in (scale, zero))
    return (q.float() - 8) * scale + zero


def makers(group_size=32):
    return {8: lambda w, b: Int8Linear.of(w, b), 4: lambda w, b: Int4Linear.of(w, b, group_size=group_size)}


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(1e-4, 1e3))
def test_int8_is_off_by_half_a_step_at_most(seed, size):
    w = weight(seed=seed) * size
    q, scale = fit_int8(w)
    off = (q.float() * scale.float()[:, None] - w).abs()
    # a scale that was rounded down to bfloat16 leaves the largest weight up to 127 * 2**-9 steps outside
    assert (off <= scale.float()[:, None] * 0.5 * (1 + 1e-5)).float().mean() > 0.98
    assert (off <= scale.float()[:, None] * (0.5 + 127 * 2**-9)).all()


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([32, 64]), st.floats(-3, 3))
def test_int4_gives_each_weight_the_nearest_code_and_fits_better_than_the_range_alone(seed, group, shift):
    w = weight(seed=seed) + shift * 0.1
    q, scale, zero = fit_int4(w, group)
    assert q.dtype == torch.uint8 and int(q.max()) <= 15 and scale.shape == zero.shape == (48, 64 // group)
    found = decoded(q, scale, zero)
    for other in (-1, 1):
        there = (q.int() + other).clamp(0, 15)
        assert ((found - w).abs() <= (decoded(there, scale, zero) - w).abs() + 1e-5).all()
    groups = w.view(-1, group)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    step = (high - low) / 15
    plain = ((groups - low) / step).round() * step + low
    assert (found - w).norm() < 0.97 * (plain - groups).norm()


def test_weights_of_16_values_evenly_spaced_are_kept_exactly():
    """Powers of two, so that bfloat16 holds scale and zero."""
    q = torch.arange(16).repeat(4).view(1, 64)
    w = (q - 8) * 0.25 + 0.5
    assert torch.equal(decoded(*fit_int4(w, 64)), w)


@pytest.mark.parametrize("value", [0.0, 0.375, -2.0])
def test_equal_weights_are_kept_exactly(value):
    w = torch.full((16, 32), value)
    assert torch.equal(decoded(*fit_int4(w, 32)), w)
    q, scale = fit_int8(w)
    assert torch.allclose(q * scale.float()[:, None], w, rtol=2**-8)


@pytest.mark.parametrize("n", [64, 192])
def test_packing_on_this_cpu_is_understood_and_reversible(n):
    assert layout_int4("cpu") in ("blocks of 64", "blocks of 32")
    q = torch.randint(0, 16, (n, 96), dtype=torch.uint8)
    packed = pack_int4(q)
    assert packed.numel() == q.numel() // 2 and torch.equal(unpack_int4(packed, 96), q)


def test_where_there_is_no_kernel_a_byte_holds_neighbours():
    q = torch.randint(0, 16, (FULL_BLOCK, 32), dtype=torch.uint8)
    pairs = packing._pairs(q)
    assert layout_int4("mps") == "plain" and pairs.shape == (FULL_BLOCK, 16)
    assert torch.equal(packing._of_pairs(pairs), q)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [1, 3, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_that_with_the_decoded_weight(bits, rows, dtype):
    """By the kernel for few rows and by a dense product for many; outputs that fill no block."""
    w, bias = weight(n=80, k=96), torch.randn(80)
    layer = makers()[bits](w, bias)
    if bits == 8:
        q, scale = fit_int8(w)
        exact = q.float() * scale.float()[:, None]
    else:
        exact = decoded(*fit_int4(w, 32))
    assert torch.equal(layer.dequantised(), exact.to(torch.bfloat16))
    x = torch.randn(2, rows, 96).to(dtype)
    y = layer(x)
    assert y.dtype == dtype and y.shape == (2, rows, 80)
    wanted = F.linear(x.to(torch.bfloat16).float(), exact, bias)
    assert (y.float() - wanted).norm() < 0.008 * wanted.norm()  # bfloat16 has 8 bits


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_that_lie_apart_are_rows(bits):
    """The last place of each text, as the output layer gets it."""
    layer = makers()[bits](weight(), None)
    x = torch.randn(3, 5, 64, dtype=torch.bfloat16)[:, -1:]
    assert torch.equal(layer(x), layer(x.contiguous()))


@pytest.mark.parametrize("bits", [8, 4])
def test_few_rows_and_many_agree_and_none_are_none(bits):
    layer = makers()[bits](weight(), None)
    x = torch.randn(layer.packed_rows + 1, 64)
    at_once, apart = layer(x), torch.cat([layer(row[None]) for row in x])
    assert (at_once - apart).norm() < 0.008 * apart.norm()
    assert layer(x[:0]).shape == (0, 48)


def test_without_a_known_order_the_kernel_says_what_the_weight_is(monkeypatch):
    layer = makers()[4](weight(n=64), None)
    known = layer.dequantised()
    monkeypatch.setattr("llmcli.layers.quantised.layout_int4", lambda device: "unknown")
    assert torch.equal(layer.dequantised(), known)
    assert makers()[4](weight(n=64), None).most_rows > 10**9  # all go to the kernel


@pytest.mark.parametrize("bits", [8, 4])
def test_without_a_kernel_the_weight_is_made_for_each_product(bits):
    layer = makers()[bits](weight(), None)
    x = torch.randn(2, 64, dtype=torch.bfloat16)
    by_kernel = layer(x)
    layer.most_rows = 0
    assert (layer(x) - by_kernel).float().norm() < 0.008 * by_kernel.float().norm()


@pytest.mark.parametrize(("bits", "part"), [(8, 0.26), (4, 0.165)])
def test_memory_is_a_quarter_or_a_sixth_of_float32(bits, part):
    w = weight(n=256, k=256)
    layer = makers()[bits](w, None)
    assert sum(each.numel() * each.element_size() for each in layer.buffers()) <= part * w.numel() * 4


def test_casts_leave_the_weight_alone_and_a_move_is_refused():
    layer = makers()[4](weight(), torch.randn(48))
    before = layer.dequantised()
    layer.to(torch.float64).half().float()
    assert torch.equal(layer.dequantised(), before) and layer.packed.dtype in (torch.int16, torch.uint8)
    assert layer.scales is None or layer.scales.dtype == torch.bfloat16
    with pytest.raises(InputError, match="quantised on cpu cannot move to meta"):
        layer.to("meta")


def test_there_is_no_training():
    layer = makers()[8](weight(), None)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        layer(torch.randn(1, 64, requires_grad=True))
    with pytest.raises(RuntimeError, match="cannot be trained"):
        layer.train()(torch.randn(1, 64))
    layer.eval()
    assert not layer(torch.randn(1, 64)).requires_grad


def test_groups_that_do_not_divide_and_rows_that_the_kernel_misreads_do_not_fit():
    assert Int8Linear.fits(weight(k=48)) and not Int8Linear.fits(weight(k=40))
    assert Int4Linear.fits(weight(k=96), 32) and not Int4Linear.fits(weight(k=96), 64)
