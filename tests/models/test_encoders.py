"""Encoders without a direction: what the contract of a backbone leaves of them, and each against its equation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from llmcli.config import build
from llmcli.errors import InputError
from llmcli.models.dan import DAN
from llmcli.models.dpcnn import DPCNN
from llmcli.models.textcnn import TextCNN

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
V, T, B = 30, 9, 3
LENGTHS = torch.tensor([T, 5, 1])
MASK = torch.arange(T) < LENGTHS[:, None]


def textcnn(**changes):
    torch.manual_seed(0)
    settings = {"vocab_size": V, "causal": False, "d_embed": 6, "widths": [2, 3], "n_filters": 4, "dropout": 0.0}
    return TextCNN(**{**settings, **changes})


def dan(**changes):
    torch.manual_seed(0)
    settings = {"vocab_size": V, "causal": False, "d_model": 6, "n": 3, "rows": 50, "dropout": 0.0}
    return DAN(**{**settings, **changes})


def dpcnn(**changes):
    torch.manual_seed(0)
    settings = {"vocab_size": V, "causal": False, "d_embed": 6, "d_model": 8, "n_blocks": 3, "dropout": 0.0}
    return DPCNN(**{**settings, **changes})


def ids():
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [textcnn, dan, dpcnn])
def test_padding_changes_nothing_and_vectors_may_come_from_elsewhere(make):
    model, given = make().eval(), ids()
    hidden = model(given, mask=MASK)
    assert hidden.shape == (B, T, model.d_model)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(hidden[row, :length], model(given[row : row + 1, :length])[0])
    vectors = model.input_embedding(given)
    plain = make(n=1) if make is dan else model
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(plain.eval()(None, inputs_embeds=vectors), plain(given))
    torch.testing.assert_close(model.hidden_states(given)[-1], model(given))
    with pytest.raises(ValueError, match="one text a row"):
        model(given, segment_ids=torch.zeros_like(given))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_bilstm_and_bigru_read_both_ways_and_generate_nothing(llm, cell):
    config = OmegaConf.load(CONFIGS / f"bi{cell}.yaml")
    model = build(OmegaConf.merge(config, {"vocab_size": V, "d_model": 6})).eval()
    given, other = ids(), ids()
    other[0, T - 1] = (given[0, T - 1] + 1) % V
    assert not model.causal and bool((model(given)[0, 0] != model(other)[0, 0]).any())
    refused = llm("train", f"model=bi{cell}", "trainer.max_steps=1")
    assert refused.code == 2 and "task=language_modeling predicts the next token" in refused.err


def test_textcnn_is_a_filter_around_each_token():
    model, given = textcnn(widths=[3]).eval(), ids()
    x = model.input_embedding(given)
    conv = model.filters[0]
    windows = F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1)  # (B, T, E, 3)
    expected = F.relu(torch.einsum("btek,fek->btf", windows, conv.weight) + conv.bias)
    torch.testing.assert_close(model(given), expected)


@pytest.mark.parametrize("length", [1, 2, 5, 8, 9])
def test_dpcnn_halves_the_text_between_its_blocks(length):
    model, given = dpcnn().eval(), ids()[:, :length]
    x = F.conv1d(model.input_embedding(given).transpose(1, 2), model.region.weight, model.region.bias, padding=1)
    for level, block in enumerate(model.blocks):
        if level:
            places = range(0, x.size(2), 2)
            x = torch.stack([x[:, :, place : place + 3].amax(2) for place in places], dim=2)
        inner = F.conv1d(x.relu(), block.first.weight, block.first.bias, padding=1)
        x = x + F.conv1d(inner.relu(), block.second.weight, block.second.bias, padding=1)
    hidden = model(given)
    assert x.size(2) == -(-length // 4)
    for token in range(length):
        torch.testing.assert_close(hidden[:, token], x[:, :, token // 4])


def test_dpcnn_lets_far_words_meet():
    given = torch.zeros(1, 40, dtype=torch.int64)
    other = given.clone()
    other[0, 30] = 1
    for n_blocks, sees in ((1, False), (4, True)):
        model = dpcnn(n_blocks=n_blocks).eval()
        assert bool((model(given)[0, 0] != model(other)[0, 0]).any()) == sees


def test_dan_adds_the_vectors_of_the_ngrams_that_end_with_a_token():
    model, given = dan(n=2).eval(), ids()
    single = model.input_embedding(given)
    pairs = model(given) - single
    torch.testing.assert_close(pairs[:, 0], torch.zeros(B, 6))
    again = torch.cat([given, given], 1)  # the same bigrams stand at two places
    both = model(again) - model.input_embedding(again)
    torch.testing.assert_close(both[:, 1:T], both[:, T + 1 :])
    torch.testing.assert_close(dan(n=1).eval()(given), dan(n=1).input_embedding(given))
    assert len({tuple(row) for row in pairs[:, 1:].flatten(0, 1).tolist()}) > 0.7 * B * (T - 1)  # few collisions


def test_dan_drops_whole_vectors_in_training_alone():
    model, given = dan(n=1, dropout=0.5), ids()
    out = model.train()(given)
    kept = (out != 0).any(-1)
    assert 0 < kept.float().mean() < 1
    torch.testing.assert_close(out[kept], 2 * model.input_embedding(given)[kept])
    torch.testing.assert_close(model.eval()(given), model.input_embedding(given))


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (textcnn, {"causal": True}, "model=textcnn generates nothing and cannot be causal"),
        (textcnn, {"widths": []}, r"widths \(0\) must be at least 1"),
        (textcnn, {"widths": [3, 3]}, r"widths \(\[3, 3\]\) must differ"),
        (dan, {"rows": 0}, r"rows \(0\) must be at least 1 for n-grams of up to n \(3\)"),
        (dan, {"dropout": 1.0}, r"dropout \(1.0\)"),
        (dpcnn, {"causal": True}, "model=dpcnn generates nothing and cannot be causal"),
        (dpcnn, {"n_blocks": 0}, r"n_blocks \(0\) must be at least 1"),
    ],
)
def test_what_is_refused(make, changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)
