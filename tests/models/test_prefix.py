"""A causal backbone that reads a source before its target: as one text, whatever the batch and however in steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from llmcli.config import build as build_config
from llmcli.models.prefix import PrefixReader

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
VOCAB, LENGTHS = 19, [6, 1, 3]
SMALL = {"d_model": 16, "d_hidden": 24, "d_embed": 8, "n_layers": 2, "n_heads": 2, "window": 4}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SOURCE = torch.randint(3, VOCAB, (3, 6), generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(3, VOCAB, (3, 5), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(6) < torch.tensor(LENGTHS)[:, None]


@pytest.fixture(params=["transformer", "gpt2", "lstm", "gru", "mlp"])
def reader(request):
    config = OmegaConf.load(CONFIGS / f"{request.param}.yaml")
    small = {key: value for key, value in SMALL.items() if key in config}
    facts = {"vocab_size": VOCAB, "pad_id": 0, "bos_id": 1, "eos_id": 2}
    root = {"facts": facts, "batch": {"seq_len": 24}, "task": {"causal": True}, "model": OmegaConf.merge(config, small)}
    torch.manual_seed(0)
    model = build_config(OmegaConf.create(root).model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
        yield PrefixReader(model)


def joined(reader, row):
    """hidden (5, D) of a row's target, when source and target are read as one text without padding."""
    source = SOURCE[row : row + 1, : LENGTHS[row]]
    return reader.backbone(torch.cat((source, TARGET[row : row + 1]), 1))[0, LENGTHS[row] :]


def test_the_target_follows_its_source(reader):
    memory = reader.encode(SOURCE, MASK)
    state = reader.init_state(memory, 5)
    assert state.lengths.tolist() == [0, 0, 0]
    steps = []
    for t in range(5):
        hidden, state = reader.step(TARGET[:, t : t + 1], state)
        steps.append(hidden)
    found = torch.cat(steps, 1)
    for row in range(3):
        torch.testing.assert_close(found[row], joined(reader, row), **CLOSE)
    assert state.lengths.tolist() == [5, 5, 5]


def test_rows_are_picked_with_their_sources_and_forgotten_alone(reader):
    state = reader.init_state(reader.encode(SOURCE, MASK), 5)
    _, state = reader.step(TARGET[:, :1], state)
    picked = state.reorder(torch.tensor([2, 2, 0, 1]))
    assert picked.lengths.tolist() == [1, 1, 1, 1]
    copy = picked.clone()
    hidden, after = reader.step(TARGET[[2, 2, 0, 1], 1:3], picked, torch.tensor([2, 1, 2, 2]))
    assert after.lengths.tolist() == [3, 2, 3, 3]
    for place, row in enumerate([2, 2, 0, 1]):
        torch.testing.assert_close(hidden[place, :1], joined(reader, row)[1:2], **CLOSE)
    again = after.truncate(torch.tensor([1, 1, 1, 1]))
    assert again.lengths.tolist() == copy.lengths.tolist() == [1, 1, 1, 1]
    for state in (again, copy.detach()):
        hidden, _ = reader.step(TARGET[[2, 2, 0, 1], 1:2], state)
        for place, row in enumerate([2, 2, 0, 1]):
            torch.testing.assert_close(hidden[place], joined(reader, row)[1:2], **CLOSE)


def test_without_padding_no_mask_is_needed(reader):
    states = [reader.init_state(reader.encode(SOURCE, mask), 5) for mask in (None, torch.ones_like(MASK))]
    one, other = (reader.step(TARGET, state)[0] for state in states)
    torch.testing.assert_close(one, other, **CLOSE)
