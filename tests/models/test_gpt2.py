"""GPT-2 equals the reference implementation with the same weights."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmcli.errors import InputError
from llmcli.heads import LanguageModelHead
from llmcli.models.gpt2 import GPT2

SIZES = {"vocab_size": 41, "max_seq_len": 24, "d_model": 16, "n_layers": 3, "n_heads": 4}


def build(**changes):
    torch.manual_seed(0)
    return GPT2(**{**SIZES, "causal": True, "dropout": 0.0, **changes}).eval()


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=41, n_positions=24, n_embd=16, n_layer=3, n_head=4, attn_implementation="eager", use_cache=True
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def with_weights_of(reference):
    model, source = build(), reference.transformer
    with torch.no_grad():
        model.input_embedding.weight.copy_(source.wte.weight)
        model.position_embedding.weight.copy_(source.wpe.weight)
        model.final_norm.load_state_dict(source.ln_f.state_dict())
        for block, h in zip(model.blocks, source.h, strict=True):
            block.attention_norm.load_state_dict(h.ln_1.state_dict())
            block.feed_forward_norm.load_state_dict(h.ln_2.state_dict())
            for name, weight, bias in zip(
                "qkv", h.attn.c_attn.weight.chunk(3, dim=1), h.attn.c_attn.bias.chunk(3), strict=True
            ):
                block.get_submodule(name).weight.copy_(weight.T)  # the reference stores (in, out)
                block.get_submodule(name).bias.copy_(bias)
            for name, linear in (("out", h.attn.c_proj), ("up", h.mlp.c_fc), ("down", h.mlp.c_proj)):
                block.get_submodule(name).weight.copy_(linear.weight.T)
                block.get_submodule(name).bias.copy_(linear.bias)
    return model, LanguageModelHead.for_backbone(model, label_smoothing=0.0).eval()


@torch.no_grad()
def test_logits_and_hidden_states_equal_the_reference(reference):
    model, head = with_weights_of(reference)
    ids = torch.randint(41, (2, 24))
    expected = reference(ids, output_hidden_states=True)
    torch.testing.assert_close(head.logits(model(ids)), expected.logits, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(model.hidden_states(ids), expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_cached_steps_equal_the_reference(reference):
    model, head = with_weights_of(reference)
    ids = torch.randint(41, (2, 12))
    state, past = model.init_state(2, 12), None
    for piece in ids.split([6, 1, 1, 4], dim=1):
        hidden, state = model.step(piece, state)
        expected = reference(piece, past_key_values=past, use_cache=True)
        past = expected.past_key_values
        torch.testing.assert_close(head.logits(hidden), expected.logits, rtol=1e-5, atol=1e-5)


def test_gradients_equal_the_reference(reference):
    model, head = with_weights_of(reference)
    ids = torch.randint(41, (2, 24))
    labels = ids.roll(-1, dims=1)
    (head.loss(model(ids), labels) / labels.numel()).backward()
    logits = reference(ids).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    torch.testing.assert_close(
        model.input_embedding.weight.grad, reference.transformer.wte.weight.grad, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        model.blocks[0].k.weight.grad.T,
        reference.transformer.h[0].attn.c_attn.weight.grad.chunk(3, dim=1)[1],
        rtol=1e-4,
        atol=1e-6,
    )


def test_the_residual_projections_start_smaller():
    model = build(d_model=128)
    block = model.blocks[1]
    for module, std in ((block.q, 0.02), (block.up, 0.02), (block.out, 0.02 / 6**0.5), (block.down, 0.02 / 6**0.5)):
        assert module.weight.std().item() == pytest.approx(std, rel=0.05)
        assert not module.bias.any()


@torch.no_grad()
def test_dropout_acts_in_training_alone():
    ids = torch.randint(41, (2, 24))
    model = build(dropout=0.5)
    torch.testing.assert_close(model(ids), build()(ids), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(ids), model(ids))
    block = model.blocks[0]
    q = torch.zeros(1, 4, 24, 4)
    seen = block._attend(q, q, torch.ones_like(q), None, causal=False)[0, 0, :, 0]
    assert seen.unique().numel() > 1  # of 24 equal weights, some are dropped and the others doubled


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"d_model \(30\) must be divisible by n_heads \(4\)"):
        build(d_model=30)
    with pytest.raises(InputError, match=r"dropout \(-0.1\) must be at least 0 and below 1"):
        build(dropout=-0.1)
