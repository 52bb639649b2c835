"""What every backbone promises (models/base.py), checked on each one that configs/model builds."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from llmcli.config import build as build_config
from llmcli.errors import InputError
from llmcli.models.base import Backbone, EncoderOnly
from llmcli.schema import locate

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
VOCAB, LENGTH, ROWS = 19, 12, 3
LOOKS_BACK_ONLY = {"mlp"}


def promises_all(path):
    """Counts, word vectors, and encoders that are never causal have tests of their own."""
    config = OmegaConf.load(path)
    model = locate(config._target_)
    if OmegaConf.select(config, "causal", throw_on_resolution_failure=False) is False:
        return False
    return issubclass(model, Backbone) and not issubclass(model, EncoderOnly) and model.kind != "counts"


NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if promises_all(path))
SMALL = {"d_model": 16, "d_hidden": 24, "d_embed": 8, "n_layers": 2, "n_heads": 2, "window": 4}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def build(name, seed=0, **changes):
    """The YAML's model, small, with every weight random: zero-initialised branches would hide mistakes."""
    model_config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    small = {key: value for key, value in {**SMALL, **changes}.items() if key in model_config}
    causal = changes.get("causal", True)
    root = OmegaConf.create(
        {
            "facts": {"vocab_size": VOCAB, "source_vocab_size": None, "pad_id": 0, "bos_id": 1, "eos_id": 2},
            "batch": {"seq_len": 4 * LENGTH},
            "task": {"causal": causal},
            "model": OmegaConf.merge(model_config, {k: v for k, v in small.items() if k != "causal"}),
        }
    )
    torch.manual_seed(seed)
    return build_config(root.model).eval()


def randomised(name, **changes):
    model = build(name, **changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def random_ids(rows=ROWS, length=LENGTH, seed=0):
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    with torch.no_grad():
        yield randomised(name)


def test_attributes(model):
    assert isinstance(model, Backbone)
    assert model.kind in ("attention", "recurrent", "window", "encoder_decoder")
    assert model.vocab_size == VOCAB
    assert model(random_ids()).shape == (ROWS, LENGTH, model.d_model)
    if model.tie_embeddings:
        assert model.input_embedding.weight.shape == (VOCAB, model.d_model)


def test_no_look_ahead(model):
    ids = random_ids()
    before = model(ids)
    for t in range(LENGTH):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % VOCAB
        after = model(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], **CLOSE)
        assert not torch.allclose(after[:, t], before[:, t], **CLOSE)


def test_an_encoder_sees_what_follows(name):
    if name in LOOKS_BACK_ONLY:
        with pytest.raises(InputError, match="causal=false"):
            build(name, causal=False)
        return
    model = randomised(name, causal=False)
    ids = random_ids()
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % VOCAB
    with torch.no_grad():
        assert not torch.allclose(model(ids)[:, 0], model(changed)[:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(name, causal):
    if not causal and name in LOOKS_BACK_ONLY:
        return
    model = randomised(name, causal=causal)
    ids, lengths = random_ids(), [LENGTH, 5, 1]
    mask = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        hidden = model(ids, mask=mask)
        states = model.hidden_states(ids, mask=mask)
        for row, length in enumerate(lengths):
            alone = model(ids[row : row + 1, :length])[0]
            torch.testing.assert_close(hidden[row, :length], alone, **CLOSE)
            torch.testing.assert_close(states[-1][row, :length], alone, **CLOSE)
    assert hidden.isfinite().all()


@pytest.mark.parametrize("causal", [True, False])
def test_packed_documents_do_not_see_each_other(name, causal):
    if not causal and name in LOOKS_BACK_ONLY:
        return
    model = randomised(name, causal=causal)
    ids = random_ids()
    ends = [[5, 6, LENGTH], [1, 9, LENGTH], [LENGTH]]
    segment_ids = torch.stack([torch.bucketize(torch.arange(LENGTH), torch.tensor(row), right=True) for row in ends])
    with torch.no_grad():
        hidden = model(ids, segment_ids=segment_ids)
        for row, row_ends in enumerate(ends):
            for start, end in zip([0, *row_ends], row_ends, strict=False):
                alone = model(ids[row : row + 1, start:end])[0]
                torch.testing.assert_close(hidden[row, start:end], alone, **CLOSE)


@pytest.mark.parametrize("sizes", [[1] * LENGTH, [5, 1, 4, 2], [LENGTH]])
def test_cached_steps_equal_forward(model, sizes):
    ids = random_ids()
    state = model.init_state(ROWS, LENGTH)
    pieces = []
    for piece in ids.split(sizes, dim=1):
        hidden, state = model.step(piece, state)
        pieces.append(hidden)
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), **CLOSE)
    assert state.lengths.tolist() == [LENGTH] * ROWS


def test_steps_under_autocast_stay_near_forward(model):
    ids = random_ids()
    expected = model(ids)
    state = model.init_state(ROWS, LENGTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for piece in ids.split([5, 6, 1], dim=1):
            hidden, state = model.step(piece, state)
    error = (hidden[:, -1].float() - expected[:, -1]).norm() / expected[:, -1].norm()
    assert error < 0.05


def test_rows_of_different_lengths_step_together(model):
    ids = random_ids(length=4 * LENGTH)
    full = model(ids)
    state = model.init_state(ROWS, LENGTH + 3)
    at = torch.zeros(ROWS, dtype=torch.int64)
    for lengths in ([5, 2, 0], [1, 4, 3], [1, 1, 1], [5, 5, 5], [2, 0, 1]):
        lengths = torch.tensor(lengths)
        width = int(lengths.max())
        picked = at[:, None] + torch.arange(width)
        hidden, state = model.step(ids.gather(1, picked), state, lengths)
        for row, length in enumerate(lengths.tolist()):
            start = int(at[row])
            torch.testing.assert_close(hidden[row, :length], full[row, start : start + length], **CLOSE)
        at += lengths
        assert state.lengths.tolist() == at.tolist()


def test_reorder_continues_the_picked_rows(model):
    ids = random_ids()
    _, state = model.step(ids[:, :6], model.init_state(ROWS, LENGTH), torch.tensor([6, 3, 5]))
    index = torch.tensor([2, 0, 0, 1])
    starts = torch.tensor([6, 3, 5])[index]
    state = state.reorder(index)
    assert state.lengths.tolist() == starts.tolist()
    hidden, _ = model.step(ids[index].gather(1, starts[:, None] + torch.arange(4)), state)
    full = model(ids)[index]
    for row, start in enumerate(starts.tolist()):
        torch.testing.assert_close(hidden[row], full[row, start : start + 4], **CLOSE)


def test_clone_is_independent(model):
    ids = random_ids()
    _, state = model.step(ids[:, :6], model.init_state(ROWS, LENGTH))
    copy = state.clone().detach()
    model.step(random_ids(seed=1)[:, :5], state)
    hidden, copy = model.step(ids[:, 6:], copy)
    torch.testing.assert_close(hidden, model(ids)[:, 6:], **CLOSE)
    assert copy.lengths.tolist() == [LENGTH] * ROWS


def test_truncate_takes_back_part_of_the_last_step(model):
    ids, other = random_ids(), random_ids(seed=1)
    _, state = model.step(ids[:, :4], model.init_state(ROWS, 2 * LENGTH))
    draft = torch.cat([ids[:, 4:6], other[:, :4]], dim=1)
    _, state = model.step(draft, state)
    kept = torch.tensor([6, 4, 5])
    state = state.truncate(kept)
    assert state.lengths.tolist() == kept.tolist()
    state = state.reorder(torch.arange(ROWS))  # as a strategy may, in between
    hidden, state = model.step(ids.gather(1, kept[:, None] + torch.arange(3)), state)
    full = model(ids)
    for row, start in enumerate(kept.tolist()):
        torch.testing.assert_close(hidden[row], full[row, start : start + 3], **CLOSE)
    with pytest.raises(ValueError, match="truncate"):
        state.truncate(state.lengths + 1)


def test_embeddings_may_be_given_instead_of_ids(model):
    ids = random_ids()
    embeds = model.input_embedding(ids)
    if hasattr(model, "ngram_embedding"):  # n-grams are of ids, which must then come too
        torch.testing.assert_close(model(ids, inputs_embeds=embeds), model(ids), **CLOSE)
    else:
        torch.testing.assert_close(model(None, inputs_embeds=embeds), model(ids), **CLOSE)
    assert not torch.allclose(model(ids, inputs_embeds=2 * embeds + 1), model(ids), **CLOSE)
    with pytest.raises(ValueError, match="ids or inputs_embeds"):
        model(None)


def test_hidden_states_end_with_what_forward_returns(name, model):
    ids = random_ids()
    states = model.hidden_states(ids)
    n_layers = OmegaConf.load(CONFIGS / f"{name}.yaml").get("n_layers")
    assert len(states) == 1 + (1 if n_layers is None else SMALL["n_layers"])
    assert all(state.shape[:2] == (ROWS, LENGTH) for state in states)
    torch.testing.assert_close(states[-1], model(ids), rtol=0, atol=0)


def test_the_seed_decides_the_weights(name):
    one, same, other = build(name), build(name), build(name, seed=1)
    for key, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[key])
    assert any(not torch.equal(weight, other.state_dict()[key]) for key, weight in one.state_dict().items())
    torch.manual_seed(0)
    other.init_weights()
    again = build(name)
    torch.manual_seed(0)
    again.init_weights()
    for key, weight in again.state_dict().items():
        assert torch.equal(weight, other.state_dict()[key]), key


def test_too_long_a_text_is_refused(model):
    if model.max_seq_len is None:
        assert model(random_ids(length=200)).shape[1] == 200
        return
    with pytest.raises(InputError, match=str(model.max_seq_len + 1)):
        model(random_ids(length=model.max_seq_len + 1))
    with pytest.raises(InputError, match=str(model.max_seq_len + 1)):
        model.init_state(1, model.max_seq_len + 1)


def test_impossible_sizes_are_refused(name):
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    for key in SMALL:
        if key in config:
            with pytest.raises(InputError, match=rf"{key} \(-4\) must be at least 1"):
                build(name, **{key: -4})
    if "n_heads" in config:
        with pytest.raises(InputError, match=r"d_model \(30\) must be divisible by .*n_heads \(4\)"):
            build(name, d_model=30, n_heads=4)
