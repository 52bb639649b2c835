"""XLNet equals the reference implementation with the same weights, and its query stream never sees its own token."""

from __future__ import annotations

import pytest
import torch
from transformers import XLNetConfig, XLNetModel

from llmcli.errors import InputError
from llmcli.models.xlnet import XLNet

V, T, B, SEP = 41, 11, 3, 6
SIZES = {"vocab_size": V, "sep_id": SEP, "d_model": 16, "n_layers": 3, "n_heads": 4, "d_ff": 24}
LENGTHS = torch.tensor([T, 6, 4])
MASK = torch.arange(T) < LENGTHS[:, None]
# two targets a row; the number of each token in the order, 0 for those known from the beginning
ORDER = torch.tensor([[0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0], [0, 3, 0, 1, 0, 2, 0, 0, 0, 0, 0], [2, 0, 0, 1] + [0] * 7])
TARGETS = torch.tensor([[7, 2], [3, 1], [0, 3]])


def build(**changes):
    torch.manual_seed(0)
    return XLNet(**{**SIZES, "causal": False, "dropout": 0.0, **changes}).eval()


def random_ids(seed=0):
    ids = torch.randint(7, V, (B, T), generator=torch.Generator().manual_seed(seed))
    ids[0, 4] = ids[1, 2] = ids[1, 5] = SEP
    return ids


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=V, d_model=16, n_layer=3, n_head=4, d_inner=24, ff_activation="gelu", attn_type="bi", dropout=0.0
    )
    model = XLNetModel(config).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too
            parameter.add_(0.2 * torch.randn_like(parameter))
    sinusoids = model.relative_positional_encoding
    model.relative_positional_encoding = lambda *given, **named: sinusoids(*given, **named).double()
    return model


@pytest.fixture(scope="module")
def model(reference):
    ours = build().double()
    with torch.no_grad():
        ours.input_embedding.weight.copy_(reference.word_embedding.weight)
        ours.query_embedding.copy_(reference.mask_emb.flatten())
        for block, layer in zip(ours.blocks, reference.layer, strict=True):
            theirs = layer.rel_attn
            for name in "qkvr":  # the reference stores (in, H, K)
                block.get_submodule(name).weight.copy_(theirs.get_parameter(name).flatten(1).T)
            block.out.weight.copy_(theirs.o.flatten(1))
            block.content_bias.copy_(theirs.r_w_bias.flatten())
            block.position_bias.copy_(theirs.r_r_bias.flatten())
            block.text_bias.copy_(theirs.r_s_bias.flatten())
            block.apart.copy_((theirs.seg_embed[1] - theirs.seg_embed[0]).flatten())
            block.attention_norm.load_state_dict(theirs.layer_norm.state_dict())
            block.up.load_state_dict(layer.ff.layer_1.state_dict())
            block.down.load_state_dict(layer.ff.layer_2.state_dict())
            block.feed_forward_norm.load_state_dict(layer.ff.layer_norm.state_dict())
    return ours


def types_of(ids):
    return (ids == SEP).cumsum(1) - (ids == SEP).long()


def query_stream_of(reference, ids, mask):
    hidden = ORDER[:, None, :] >= ORDER[:, :, None].clamp(min=1)
    mapping = torch.zeros(B, TARGETS.shape[1], T, dtype=torch.float64).scatter_(2, TARGETS[..., None], 1.0)
    return reference(
        ids,
        attention_mask=None if mask is None else mask.double(),
        token_type_ids=types_of(ids),
        perm_mask=hidden.double(),
        target_mapping=mapping,
    ).last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, MASK])
def test_hidden_states_equal_the_reference(reference, model, mask):
    ids = random_ids()
    given = None if mask is None else mask.double()
    expected = reference(ids, attention_mask=given, token_type_ids=types_of(ids), output_hidden_states=True)
    real = torch.ones_like(MASK) if mask is None else mask
    for ours, theirs in zip(model.hidden_states(ids, mask), expected.hidden_states, strict=True):
        torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-6)
    torch.testing.assert_close(model(ids, mask)[real], expected.last_hidden_state[real], rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, MASK])
def test_the_query_stream_equals_the_reference(reference, model, mask):
    """And through it the content stream of all blocks but the last, which nobody asks for."""
    ids = random_ids()
    query = model.two_streams(ids, ORDER, TARGETS, mask)
    torch.testing.assert_close(query, query_stream_of(reference, ids, mask), rtol=0, atol=1e-6)


def test_gradients_of_both_streams_equal_the_reference(reference, model):
    ids = random_ids()
    for each in (reference, model):
        each.zero_grad()
    for query in (model.two_streams(ids, ORDER, TARGETS, MASK), query_stream_of(reference, ids, MASK)):
        query.pow(3).sum().backward()
    block, theirs = model.blocks[0], reference.layer[0].rel_attn
    for ours, expected in (
        (model.input_embedding.weight, reference.word_embedding.weight.grad),
        (model.query_embedding, reference.mask_emb.grad.flatten()),
        (block.r.weight, theirs.r.grad.flatten(1).T),
        (block.apart, theirs.seg_embed.grad[1].flatten()),
        (block.text_bias, theirs.r_s_bias.grad.flatten()),
    ):
        torch.testing.assert_close(ours.grad, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_prediction_sees_what_came_earlier_in_the_order_and_nothing_else(model):
    """Change one token after another: exactly the queries of later ones notice."""
    ids = random_ids()
    before = model.two_streams(ids, ORDER, TARGETS, MASK)
    for place in range(T):
        changed = ids.clone()
        changed[:, place] = torch.where(ids[:, place] == SEP, SEP, (ids[:, place] - 6) % (V - 7) + 7)
        after = model.two_streams(changed, ORDER, TARGETS, MASK)
        moved = (after - before).abs().amax(-1) > 1e-9  # (B, M)
        earlier = ORDER[:, place, None] < ORDER.gather(1, TARGETS)
        expected = earlier & MASK[:, place, None] & (changed != ids)[:, place, None]
        assert torch.equal(moved, expected), place


@torch.no_grad()
def test_padding_and_packing_change_nothing_and_vectors_may_come_from_elsewhere(model):
    ids = random_ids()
    hidden = model(ids, MASK)
    segment_ids = (torch.arange(T) >= LENGTHS[:, None]).long()
    packed = model(ids, segment_ids=segment_ids)
    for row, length in enumerate(LENGTHS):
        alone = model(ids[row : row + 1, :length])[0]
        torch.testing.assert_close(hidden[row, :length], alone)
        torch.testing.assert_close(packed[row, :length], alone)
        if length < T:
            torch.testing.assert_close(packed[row, length:], model(ids[row : row + 1, length:])[0])
    plain = ids.where(ids != SEP, 7)  # one text
    torch.testing.assert_close(model(None, inputs_embeds=model.input_embedding(plain)), model(plain))
    with pytest.raises(ValueError, match="ids or inputs_embeds"):
        model(None)


@torch.no_grad()
def test_order_counts_and_long_texts_have_no_limit(model):
    ids = random_ids()[:1].where(random_ids()[:1] != SEP, 7)
    turned = ids.flip(1)
    assert not torch.allclose(model(ids).flip(1), model(turned))  # left and right differ
    assert model(ids.repeat(1, 40)).shape == (1, 40 * T, 16)


@torch.no_grad()
def test_without_a_separator_all_is_one_text():
    ids = random_ids()
    one, texts = build(sep_id=None), build()
    assert not torch.allclose(one(ids), texts(ids))
    plain = ids.where(ids != SEP, 7)
    torch.testing.assert_close(one(plain), texts(plain), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"causal": True}, "model=xlnet generates nothing and cannot be causal"),
        ({"d_model": 30}, r"d_model \(30\) must be divisible by n_heads \(4\)"),
        ({"d_model": 15, "n_heads": 3}, r"d_model \(15\) must be even"),
        ({"d_ff": 0}, r"d_ff \(0\) must be at least 1"),
        ({"dropout": 1.0}, r"dropout \(1.0\)"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        build(**changes)


@pytest.mark.parametrize("streams", [1, 2])
def test_every_parameter_takes_part_in_training_which_several_processes_need(streams):
    model, ids = build().train(), torch.full((B, T), 9)  # one text a row: no separator
    hidden = model(ids) if streams == 1 else model.two_streams(ids, ORDER, TARGETS)
    hidden.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    for name, weight in model.named_parameters():  # what had no part has a gradient of nothing
        if name.endswith(("text_bias", "apart")):
            assert not weight.grad.any()
