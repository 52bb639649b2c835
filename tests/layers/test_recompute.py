"""Blocks that are computed again in the backward pass: the same gradients from less memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmcli.errors import InputError
from llmcli.layers.recompute import recompute_blocks
from llmcli.models.bert import BERT
from llmcli.models.gpt2 import GPT2
from llmcli.models.seq2seq_transformer import Seq2SeqTransformer
from llmcli.models.transformer import Transformer
from llmcli.models.xlnet import XLNet

V, T, D = 23, 24, 16
SIZES = {"vocab_size": V, "d_model": D, "n_heads": 2}
ENCODER = {**SIZES, "causal": False, "sep_id": 3, "n_layers": 2, "d_ff": None}


def transformer(dropout):
    return Transformer(
        **SIZES, max_seq_len=T, causal=True, n_layers=2, n_kv_heads=None, d_ff=None, activation="relu2", qk_norm=True,
        rope_theta=1e4, ngram_rows=[50], tie_embeddings=False, logit_softcap=None, dropout=dropout,
    )  # fmt: skip


def gpt2(dropout):
    return GPT2(**SIZES, max_seq_len=T, causal=True, n_layers=2, dropout=dropout)


def bert(dropout):
    return BERT(**ENCODER, max_seq_len=T, n_types=2, d_embed=None, dropout=dropout)


def xlnet(dropout):
    return XLNet(**ENCODER, dropout=dropout)


def seq2seq(dropout):
    return Seq2SeqTransformer(
        **SIZES, max_seq_len=T, n_encoder_layers=2, n_decoder_layers=2, d_ff=None, norm="pre", positions="sinusoidal",
        share_embeddings=True, tie_embeddings=True, dropout=dropout,
    )  # fmt: skip


def output(model):
    ids = torch.randint(4, V, (3, T), generator=torch.Generator().manual_seed(2))
    if isinstance(model, Seq2SeqTransformer):
        return model.decode(ids, model.encode(ids.flip(1)))
    if isinstance(model, XLNet):
        order = torch.arange(T).expand(3, T)
        return model.two_streams(ids, order, order[:, -4:]) + model(ids)[:, -4:]
    return model(ids)


def gradients(model):
    """Of a fixed function of the output, with the seed that dropout has; and the bytes kept for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = output(model).sin().sum()
    drawn = torch.rand(())  # the generator is where it would be
    return [loss, drawn, *torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)], sum(kept.values())


@pytest.mark.parametrize("make", [transformer, gpt2, bert, xlnet, seq2seq])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_same_gradients_from_less_memory(make, dropout):
    torch.manual_seed(0)
    model = make(dropout).train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)  # zero-initialised branches would hide mistakes
    names = list(model.state_dict())
    expected, before = gradients(model)
    assert recompute_blocks(model) == (4 if make is seq2seq else 2)
    found, after = gradients(model)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert after < 0.75 * before, (after, before, weights)
    assert list(model.state_dict()) == names


def test_under_autocast_too():
    torch.manual_seed(0)
    model = transformer(0.3).train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        expected, _ = gradients(model)
        recompute_blocks(model)
        found, _ = gradients(model)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_compiled_blocks_are_recomputed_too():
    torch.manual_seed(0)
    model = gpt2(0.0).train()
    expected, before = gradients(model)
    recompute_blocks(model)
    model.compile(backend="aot_eager")
    found, after = gradients(model)
    torch.testing.assert_close(found, expected)
    assert after < 0.75 * before


def test_without_gradients_nothing_is_wrapped(monkeypatch):
    model = gpt2(0.0).eval()
    recompute_blocks(model)
    monkeypatch.setattr("llmcli.layers.recompute.checkpoint", None)
    with torch.no_grad():
        output(model)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(InputError, match="is for models made of blocks, and this one has none"):
        recompute_blocks(nn.LSTM(4, 4, num_layers=2))
