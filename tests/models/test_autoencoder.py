"""Autoencoder and VAE: the Gaussian against torch.distributions, steps against the whole, what changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from llmcli.errors import InputError
from llmcli.models.autoencoder import Autoencoder, Posterior
from llmcli.models.vae import VAE

SIZES = {
    "cell": "lstm", "vocab_size": 11, "d_model": 8, "d_code": 3, "n_encoder_layers": 1, "n_decoder_layers": 2,
    "pooling": "max", "share_embeddings": True, "tie_embeddings": True, "dropout": 0.0,
}  # fmt: skip


def make(kind=VAE, **changes):
    torch.manual_seed(0)
    return kind(**{**SIZES, **changes}).double().eval()


def gaussian(*shape):
    torch.manual_seed(1)
    return Posterior(torch.randn(*shape).double(), torch.randn(*shape).double())


def test_kl_and_weights_are_those_of_the_distributions():
    posterior = gaussian(4, 3)
    q, prior = Normal(posterior.mean, (0.5 * posterior.log_variance).exp()), Normal(0.0, 1.0)
    assert torch.allclose(posterior.kl(), kl_divergence(q, prior))
    noise = torch.randn(6, 4, 3).double()
    code = posterior.code(noise)
    expected = (prior.log_prob(code) - q.log_prob(code)).sum(-1)
    assert torch.allclose(posterior.log_weight(noise), expected)


def test_kl_is_zero_where_the_posterior_is_the_prior():
    model = make()
    for layer in (model.mean, model.log_variance):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    posterior = model.encode(torch.randint(11, (5, 4)))
    assert posterior.kl().abs().max() == 0
    assert posterior.log_weight(torch.randn(2, 5, 3).double()).abs().max() < 1e-12


def test_codes_are_drawn_as_the_posterior_says_and_gradients_flow_through_them():
    mean, log_variance = torch.tensor([[1.0, -2.0]], requires_grad=True), torch.tensor([[0.0, 2.0]], requires_grad=True)
    noise = torch.randn(40_000, 1, 2, generator=torch.Generator().manual_seed(0))
    codes = Posterior(mean, log_variance).code(noise)
    assert torch.allclose(codes.mean(0), mean, atol=0.05)
    assert torch.allclose(codes.var(0).log(), log_variance, atol=0.05)
    codes.mean(0).sum().backward()
    assert torch.allclose(mean.grad, torch.ones(1, 2)) and log_variance.grad.abs().min() > 0


def test_an_autoencoder_has_one_code_for_a_text():
    posterior = make(Autoencoder).encode(torch.randint(11, (5, 4)))
    assert posterior.log_variance is None and posterior.kl().abs().max() == 0
    noise = torch.randn(2, 5, 3).double()
    assert torch.equal(posterior.code(noise), posterior.mean.expand(2, 5, 3))
    assert posterior.log_weight(noise).abs().max() == 0


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("pooling", ["max", "mean", "last"])
def test_padding_and_the_batch_change_no_code(cell, pooling):
    model = make(cell=cell, pooling=pooling)
    ids = torch.randint(11, (3, 7))
    lengths = torch.tensor([7, 2, 4])
    together = model.encode(ids, torch.arange(7) < lengths[:, None])
    for row, length in enumerate(lengths.tolist()):
        alone = model.encode(ids[row : row + 1, :length])
        assert torch.allclose(alone.mean[0], together.mean[row])
        assert torch.allclose(alone.log_variance[0], together.log_variance[row])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("d_code", [3, 0])
def test_steps_equal_the_whole(cell, d_code):
    model = make(cell=cell, d_code=d_code)
    target, code = torch.randint(11, (4, 6)), torch.randn(4, d_code).double()
    whole = model.decode(target, code)
    state, hidden = model.init_state(code, 6), []
    for part in target.split([1, 3, 2], 1):
        some, state = model.step(part, state)
        hidden.append(some)
    assert torch.allclose(torch.cat(hidden, 1), whole)
    index = torch.tensor([2, 2, 0])
    _, state = model.step(target[:, :4], model.init_state(code, 6))
    again, _ = model.step(target[index, 4:], state.reorder(index).clone())
    assert torch.allclose(again, whole[index, 4:])
    back, _ = model.step(target[:, 2:], state.truncate(torch.full((4,), 2)))
    assert torch.allclose(back, whole[:, 2:])


def test_rows_of_unlike_lengths_step_as_if_alone():
    model = make()
    target, code = torch.randint(11, (2, 5)), torch.randn(2, 3).double()
    _, state = model.step(target[:, :4], model.init_state(code, 5), torch.tensor([2, 4]))
    hidden, _ = model.step(target[:, 4:], state)
    alone = model.decode(torch.cat((target[:1, :2], target[:1, 4:]), 1), code[:1])
    assert torch.allclose(hidden[0, 0], alone[0, -1]) and torch.allclose(hidden[1, 0], model.decode(target, code)[1, 4])


def test_the_code_is_there_at_every_step_and_what_comes_is_not():
    model = make()
    target, code = torch.randint(11, (1, 6)), torch.randn(1, 3).double()
    hidden = model.decode(target, code)
    assert (model.decode(target, code + 1) - hidden).abs().amax(2).min() > 1e-4
    other = target.clone()
    other[0, 3] = (other[0, 3] + 1) % 11
    changed = (model.decode(other, code) - hidden).abs().amax(2)[0] > 1e-9
    assert changed.tolist() == [False, False, False, True, True, True]
    torch.nn.init.zeros_(model.decoder.to_state.weight)  # no longer in the first state: it still stands at each step
    assert (model.decode(target, code + 1) - model.decode(target, code)).abs().amax(2).min() > 1e-4


def test_without_a_code_nothing_is_read():
    model = make(d_code=0)
    posterior = model.encode(torch.randint(11, (5, 4)))
    assert posterior.mean.shape == (5, 0) and posterior.kl().sum() == 0
    assert not any(name.startswith(("encoder", "mean", "log_variance", "pool")) for name, _ in model.named_parameters())


def test_one_table_or_two():
    shared, apart = make(), make(share_embeddings=False)
    assert shared.encoder.input_embedding is shared.decoder.input_embedding is shared.input_embedding
    assert apart.encoder.input_embedding is not apart.decoder.input_embedding


def test_gradients_reach_every_parameter():
    for kind in (Autoencoder, VAE):
        model = make(kind).train()
        posterior = model.encode(torch.randint(11, (5, 4)))
        hidden = model.decode(torch.randint(11, (5, 4)), posterior.code(torch.randn(5, 3).double()))
        (hidden.square().sum() + posterior.kl().sum()).backward()
        assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_code": -1}, "model.d_code (-1) must be at least 0"),
        ({"cell": "rnn"}, "model.cell (rnn) must be one of lstm, gru"),
        ({"n_decoder_layers": 0}, "n_decoder_layers (0) must be at least 1"),
        ({"d_model": 7}, "d_model (7) must be even"),
        ({"pooling": "sum"}, "pooling (sum) must be one of"),
        ({"dropout": 1.0}, "dropout_input (1.0)"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(InputError) as refused:
        make(**changes)
    assert message in str(refused.value)
