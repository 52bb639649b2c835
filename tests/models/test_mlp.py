"""The neural probabilistic language model computes the paper's formula."""

import pytest
import torch

from llmcli.heads import LanguageModelHead
from llmcli.models.mlp import MLP

SIZES = {"vocab_size": 11, "causal": True, "window": 3, "d_embed": 4, "d_hidden": 6}


def build(activation="tanh", direct=False, dropout=0.0):
    torch.manual_seed(0)
    return MLP(**SIZES, activation=activation, direct=direct, dropout=dropout)


def test_logits_are_the_papers_formula():
    """y = b + W x + U tanh(d + H x), x the concatenated embeddings (Bengio et al. 2003, equation 1)."""
    model = build(direct=True)
    head = LanguageModelHead.for_backbone(model, label_smoothing=0.0)
    torch.nn.init.normal_(head.bias)
    ids = torch.tensor([[4, 7, 1, 9]])
    table = model.input_embedding.weight
    x = torch.cat([table[7], table[1], table[9]])
    u, w = head.weight.split([6, 12], dim=1)
    expected = head.bias + w @ x + u @ torch.tanh(model.hidden.bias + model.hidden.weight @ x)
    torch.testing.assert_close(head.logits(model(ids))[0, -1], expected)


def test_one_learned_vector_stands_before_the_text():
    model = build()
    x = torch.cat([model.nothing, model.nothing, model.input_embedding.weight[4]])
    torch.testing.assert_close(model(torch.tensor([[4, 7]]))[0, 0], torch.tanh(model.hidden(x)))
    model(torch.tensor([[4, 7]])).sum().backward()
    assert model.nothing.grad.any()


def test_nothing_beyond_the_window_is_seen():
    model = build()
    one, other = torch.tensor([[4, 7, 1, 9]]), torch.tensor([[5, 7, 1, 9]])
    assert torch.equal(model(one)[:, 3], model(other)[:, 3])
    assert not torch.equal(model(one)[:, 2], model(other)[:, 2])


@pytest.mark.parametrize("change", [{"activation": "relu"}, {"activation": "gelu"}, {"direct": True}, {"dropout": 0.5}])
def test_each_option_changes_the_outcome(change):
    ids = torch.tensor([[4, 7, 1, 9]])
    plain, changed = build()(ids), build(**change)(ids)
    assert plain.shape != changed.shape or not torch.equal(plain, changed)
