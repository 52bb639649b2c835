"""The convolutional translator against its formulas, token by token."""

from __future__ import annotations

import math

import pytest
import torch

from llmcli.errors import InputError
from llmcli.models.seq2seq_cnn import Seq2SeqCNN

B, S, T, VOCAB, D, KERNEL = 3, 7, 6, 17, 8, 3
LENGTHS = [7, 2, 4]
MASK = torch.arange(S) < torch.tensor(LENGTHS)[:, None]


def build(**changes):
    torch.manual_seed(0)
    sizes = {"d_model": D, "n_encoder_layers": 2, "n_decoder_layers": 2, "kernel_size": KERNEL, "dropout": 0.0}
    return Seq2SeqCNN(
        vocab_size=VOCAB, max_seq_len=20, share_embeddings=False, tie_embeddings=True, **{**sizes, **changes}
    ).double()  # fmt: skip


def ids(length, seed):
    return torch.randint(VOCAB, (B, length), generator=torch.Generator().manual_seed(seed))


SOURCE, TARGET = ids(S, 1), ids(T, 2)


def gated(kernel, vectors):
    """One output of a convolution over KERNEL vectors: half of it times the sigmoid of the other half."""
    total = kernel.bias + sum(kernel.weight[:, :, k] @ vector for k, vector in enumerate(vectors))
    return total[:D] * torch.sigmoid(total[D:])


def by_the_formulas(model, row):
    nothing, half = torch.zeros(D).double(), math.sqrt(0.5)
    e = model.input_embedding(SOURCE[row, : LENGTHS[row]]) + model.source_positions.weight[: LENGTHS[row]]
    x = list(model.source_in(e))
    for kernel in model.encoder:
        beside = [nothing, *x, nothing]
        x = [(gated(kernel, beside[i : i + 3]) + x[i]) * half for i in range(len(x))]
    keys = model.source_out(torch.stack(x))
    values = (keys + e) * half
    g = model.target_embedding(TARGET[row]) + model.target_positions.weight[:T]
    x = list(model.target_in(g))
    for block in model.decoder:
        before, out = [nothing, nothing, *x], []
        for i in range(T):
            h = gated(block.kernel, before[i : i + 3])
            weights = (keys @ ((block.query(h) + g[i]) * half)).softmax(0)
            context = math.sqrt(len(keys)) * (weights @ values)
            out.append((((block.out(context) + h) * half) + x[i]) * half)
        x = out
    return model.target_out(torch.stack(x))


def test_hidden_states_are_those_of_the_formulas():
    model = build()
    hidden = model(SOURCE, MASK, TARGET)
    for row in range(B):
        torch.testing.assert_close(hidden[row], by_the_formulas(model, row))


def test_variance_neither_grows_nor_vanishes_with_depth():
    model = build(d_model=128, n_encoder_layers=12, n_decoder_layers=12)
    hidden = model(SOURCE, MASK, TARGET)
    shallow = build(d_model=128, n_encoder_layers=1, n_decoder_layers=1)(SOURCE, MASK, TARGET)
    ratio = (hidden.var() / shallow.var()).item()
    assert 0.1 < ratio < 10


def test_every_parameter_learns_and_dropout_acts_in_training_alone():
    model = build(dropout=0.5)
    model(SOURCE, MASK, TARGET).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
    assert not torch.equal(model(SOURCE, MASK, TARGET), model(SOURCE, MASK, TARGET))
    model.eval()
    assert torch.equal(model(SOURCE, MASK, TARGET), model(SOURCE, MASK, TARGET))


def test_an_even_kernel_is_refused():
    with pytest.raises(InputError, match=r"model.kernel_size \(4\) must be odd"):
        build(kernel_size=4)
