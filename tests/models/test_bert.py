"""BERT equals the reference implementation with the same weights, and keeps the promises of a backbone."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, ElectraConfig, ElectraModel

from llmcli.errors import InputError
from llmcli.models.bert import BERT

V, T, B, SEP = 31, 12, 3, 6
SIZES = {
    "vocab_size": V, "max_seq_len": 16, "causal": False, "sep_id": SEP, "n_types": 2, "d_embed": None, "d_model": 16,
    "n_layers": 3, "n_heads": 4, "d_ff": 40, "dropout": 0.0,
}  # fmt: skip
SHARED = {
    "vocab_size": V, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40,
    "max_position_embeddings": 16, "type_vocab_size": 2, "attn_implementation": "eager",
}  # fmt: skip
LENGTHS = torch.tensor([T, 7, 1])
MASK = torch.arange(T) < LENGTHS[:, None]


def build(**changes):
    """In double precision, with every weight random: those that start at 0 or 1 would hide mistakes."""
    torch.manual_seed(0)
    model = BERT(**{**SIZES, **changes}).double().eval()
    return randomised(model)


def randomised(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def random_ids():
    ids = torch.randint(7, V, (B, T), generator=torch.Generator().manual_seed(1))
    ids[0, [3, 8, 11]] = SEP  # more texts than types
    ids[1, 4] = SEP
    return ids


def with_weights_of(source, model):
    """The weights of a transformers BertModel or ElectraModel by name, one to one."""
    names = {
        "embeddings.word_embeddings": "input_embedding",
        "embeddings.position_embeddings": "position_embedding",
        "embeddings.token_type_embeddings": "type_embedding",
        "embeddings.LayerNorm": "embedding_norm",
        "embeddings_project": "projection",
    }
    inside = {
        "attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v",
        "attention.output.dense": "out", "attention.output.LayerNorm": "attention_norm", "intermediate.dense": "up",
        "output.dense": "down", "output.LayerNorm": "feed_forward_norm",
    }  # fmt: skip
    for layer in range(3):
        names |= {f"encoder.layer.{layer}.{theirs}": f"blocks.{layer}.{ours}" for theirs, ours in inside.items()}
    state = {}
    for name, weight in source.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module in names:
            state[f"{names[module]}.{kind}"] = weight
    model.load_state_dict(state)  # strict: nothing is missing, nothing is left
    return model


@pytest.mark.parametrize(
    ("reference", "d_embed"),
    [
        (lambda: BertModel(BertConfig(**SHARED), add_pooling_layer=False), None),
        (lambda: ElectraModel(ElectraConfig(**SHARED, embedding_size=8)), 8),
    ],
    ids=["bert", "narrow embedding"],
)
@torch.no_grad()
def test_hidden_states_equal_the_reference(reference, d_embed):
    source = randomised(reference().double().eval())
    model = with_weights_of(source, build(d_embed=d_embed))
    ids = random_ids()
    types = ((ids == SEP).cumsum(1) - (ids == SEP).long()).clamp(max=1)
    assert types[0].tolist() == [0] * 4 + [1] * 8  # each text with the separator that ends it
    expected = source(ids, attention_mask=MASK.long(), token_type_ids=types, output_hidden_states=True).hidden_states
    found = model.hidden_states(ids, MASK)
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs)[MASK].abs().max() < 1e-9
    torch.testing.assert_close(model(ids, MASK), found[-1], rtol=0, atol=0)


def test_gradients_equal_the_reference():
    source = randomised(BertModel(BertConfig(**SHARED), add_pooling_layer=False).eval())
    model = with_weights_of(source, build().float())
    ids = random_ids()
    types = model.types(ids)
    for hidden in (model(ids, MASK), source(ids, attention_mask=MASK.long(), token_type_ids=types).last_hidden_state):
        hidden[MASK].square().sum().backward()
    theirs = source.encoder.layer[0].attention.self.key.weight.grad
    torch.testing.assert_close(model.blocks[0].k.weight.grad, theirs, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_padding_changes_nothing():
    model, ids = build(), random_ids()
    hidden = model(ids, MASK)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(hidden[row, :length], model(ids[row : row + 1, :length])[0])


@torch.no_grad()
def test_packed_documents_are_read_as_if_each_stood_alone():
    """With positions from 0 and separators counted from where a document begins."""
    model, ids = build(), random_ids()
    ends = [[5, 6, T], [1, 9, T], [T]]
    segment_ids = torch.stack([torch.bucketize(torch.arange(T), torch.tensor(row), right=True) for row in ends])
    hidden = model(ids, segment_ids=segment_ids)
    for row, row_ends in enumerate(ends):
        for start, end in zip([0, *row_ends], row_ends, strict=False):
            torch.testing.assert_close(hidden[row, start:end], model(ids[row : row + 1, start:end])[0])


@torch.no_grad()
def test_embeddings_may_be_given_and_positions_too():
    model, ids = build(d_embed=8), random_ids()
    embeds = model.input_embedding(ids)
    torch.testing.assert_close(model(ids, inputs_embeds=embeds), model(ids))
    one_text = ids.where(ids != SEP, 7)
    torch.testing.assert_close(model(None, inputs_embeds=model.input_embedding(one_text)), model(one_text))
    shifted = torch.arange(T)[None] + 2
    assert not torch.allclose(model(ids, positions=shifted), model(ids))
    torch.testing.assert_close(model(ids, positions=shifted - 2), model(ids))
    with pytest.raises(ValueError, match="ids or inputs_embeds"):
        model(None)


@torch.no_grad()
def test_what_has_no_separator_is_one_text():
    ids = random_ids()
    assert build(sep_id=None).types(ids).unique().tolist() == [0]
    assert build(n_types=1).types(ids).unique().tolist() == [0]
    assert build(n_types=4).types(ids)[0].tolist() == [0] * 4 + [1] * 5 + [2] * 3


@pytest.mark.parametrize(("share", "heads"), [(0.5, 2), (0.7, 3), (0.01, 1), (1.0, 4)])
def test_a_smaller_one_stands_on_the_same_tables(share, heads):
    model, ids = build(d_embed=8, dropout=0.1), random_ids()
    before = model(ids)
    small = model.smaller(share).double()
    assert (small.d_model, small.blocks[0].up.out_features, len(small.blocks)) == (4 * heads, 10 * heads, 3)
    assert small(ids).shape == (B, T, 4 * heads) and small.dropout.p == 0.1
    tables = {id(table) for table in (small.input_embedding, small.position_embedding, small.type_embedding)}
    assert tables <= {id(module) for module in model.modules()}
    shared = {id(parameter) for parameter in model.parameters()} & {id(parameter) for parameter in small.parameters()}
    assert len(shared) == 3
    torch.testing.assert_close(model(ids), before, rtol=0, atol=0)  # making it has left the tables as they were


@torch.no_grad()
def test_dropout_acts_on_the_attention_too_and_in_training_alone():
    model, ids = build(dropout=0.5), random_ids()
    torch.testing.assert_close(model(ids), build()(ids), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(ids), model(ids))
    model.dropout.p = 0.0
    for block in model.blocks:
        block.dropout.p = 0.0
    torch.testing.assert_close(model(ids), build()(ids))


def test_the_seed_decides_the_weights_and_their_size():
    torch.manual_seed(0)
    one = BERT(**{**SIZES, "d_model": 128, "d_ff": None})
    torch.manual_seed(0)
    same = BERT(**{**SIZES, "d_model": 128, "d_ff": None})
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    block = one.blocks[1]
    assert block.up.weight.shape == (512, 128)
    for weight in (one.input_embedding.weight, block.q.weight, block.down.weight):
        assert weight.std().item() == pytest.approx(0.02 * 6**0.5, rel=0.05)  # 0.02 at six times the width
    assert not block.q.bias.any() and block.attention_norm.weight.eq(1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"causal": True}, "model=bert generates nothing and cannot be causal"),
        ({"d_model": 30}, r"d_model \(30\) must be divisible by n_heads \(4\)"),
        ({"n_types": 0}, r"n_types \(0\) must be at least 1"),
        ({"d_embed": -8}, r"d_embed \(-8\) must be at least 1"),
        ({"dropout": 1.0}, r"dropout \(1.0\)"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        BERT(**{**SIZES, **changes})


def test_too_long_a_text_is_refused():
    with pytest.raises(InputError, match=r"17 tokens are more than max_seq_len \(16\)"):
        build()(torch.zeros(1, 17, dtype=torch.int64))
