"""Both attention kernels compute the same function, and the rule picks one."""

import pytest
import torch
import torch.nn.functional as F

from llmcli.layers import attention
from llmcli.layers.attention import attend, fused_attention, grouped_attention, plain_attention, visibility


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masking", ["none", "causal", "padding and documents"])
def test_both_kernels_compute_the_same(kv_heads: int, masking: str):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 10, 8, generator=generator, requires_grad=True)
    k = torch.randn(2, kv_heads, 10, 8, generator=generator, requires_grad=True)
    v = torch.randn(2, kv_heads, 10, 8, generator=generator, requires_grad=True)
    causal = masking != "none"
    visible = None
    if masking == "padding and documents":
        mask = torch.arange(10)[None] < torch.tensor([[10], [7]])
        visible = visibility(10, True, mask, torch.tensor([[0] * 4 + [1] * 6] * 2))
    results = []
    for kernel in (fused_attention, plain_attention):
        y = kernel(q, k, v, visible, causal)
        results.append([y, *torch.autograd.grad(y.square().sum(), (q, k, v))])
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_few_queries_of_shared_heads_compute_the_same(queries: int, masked: bool):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, queries, 8, generator=generator)
    k, v = torch.randn(2, 2, 2, 10, 8, generator=generator)
    seen = torch.arange(10) < torch.arange(5, 5 + 2 * queries).view(2, 1, queries, 1)
    visible = seen if masked else None
    expected = fused_attention(q, k, v, visible, False)
    torch.testing.assert_close(grouped_attention(q, k, v, visible), expected)
    assert torch.equal(attend(q, k, v, visible=visible, causal=False), grouped_attention(q, k, v, visible))
    torch.testing.assert_close(attend(q, k, v, visible=visible, causal=True), fused_attention(q, k, v, visible, True))


def test_a_kernel_may_lay_heads_and_queries_out_as_it_likes(monkeypatch):
    q, k = torch.randn(2, 6, 3, 8), torch.randn(2, 2, 10, 8)
    expected, kernel = grouped_attention(q, k, k, None), F.scaled_dot_product_attention

    def swapped(*given, **named):
        return kernel(*given, **named).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", swapped)
    assert torch.equal(grouped_attention(q, k, k, None), expected)


@pytest.mark.parametrize("kernel", [fused_attention, plain_attention])
def test_dropout_leaves_out_keys_and_keeps_the_mean(kernel):
    torch.manual_seed(0)
    q = torch.zeros(1, 2, 50, 4)  # every key weighs 1/50
    y = kernel(q, q, torch.ones_like(q), None, False, 0.5)[..., 0]
    assert y.unique().numel() > 5  # each query lost other keys, and others count double
    assert y.mean().item() == pytest.approx(1, abs=0.1)


def test_visibility_is_causal_inside_a_document_without_padding():
    mask = torch.tensor([[True, True, True, True, False]])
    documents = torch.tensor([[0, 0, 1, 1, 1]])
    visible = visibility(5, True, mask, documents)
    assert visible.shape == (1, 1, 5, 5)
    assert visible[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],  # padding sees something, and nothing real sees it
    ]
    assert visibility(5, True) is None


@pytest.mark.parametrize(
    ("trained", "length", "kernel"), [(True, 64, "plain"), (True, 8192, "fused"), (False, 64, "fused")]
)
def test_the_kernel_follows_training_and_length(monkeypatch, trained, length, kernel):
    chosen = []
    for name in ("plain", "fused"):
        monkeypatch.setattr(attention, f"{name}_attention", lambda *_, name=name: chosen.append(name))
    q = torch.zeros(1, 1, length, 2, requires_grad=trained)
    attend(q, q, q, visible=None, causal=True)
    assert chosen == [kernel]
