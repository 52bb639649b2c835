"""What every encoder-decoder promises (models/encoder_decoder.py), checked on each one that configs/model builds."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from llmcli import schema
from llmcli.config import build as build_config
from llmcli.errors import InputError
from llmcli.models.encoder_decoder import EncoderDecoder

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
VOCAB, S, T, ROWS = 19, 9, 7, 3
SMALL = {"d_model": 16, "n_encoder_layers": 2, "n_decoder_layers": 2, "n_layers": 2, "n_heads": 2}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
LENGTHS = [S, 4, 1]
TARGETS = {path.stem: schema.locate(str(OmegaConf.load(path)._target_)) for path in CONFIGS.glob("*.yaml")}
NAMES = sorted(name for name, target in TARGETS.items() if issubclass(target, EncoderDecoder))


def build(name, seed=0, **changes):
    """The YAML's model, small, with every weight random: zeros would hide mistakes."""
    model_config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    model_config.pop("defaults", None)
    small = {key: value for key, value in {**SMALL, **changes}.items() if key in model_config}
    root = OmegaConf.create(
        {
            "facts": {"vocab_size": VOCAB, "source_vocab_size": None, "pad_id": 0, "bos_id": 1, "eos_id": 2},
            "batch": {"seq_len": 4 * S},
            "model": OmegaConf.merge(model_config, small),
        }
    )
    torch.manual_seed(seed)
    model = build_config(root.model).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    with torch.no_grad():
        yield build(name)


def random_ids(length, rows=ROWS, seed=0):
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


SOURCE, TARGET = random_ids(S), random_ids(T, seed=1)
MASK = torch.arange(S) < torch.tensor(LENGTHS)[:, None]


def test_attributes(model):
    assert model.kind == "encoder_decoder" and model.vocab_size == VOCAB
    assert model(SOURCE, MASK, TARGET).shape == (ROWS, T, model.d_model)
    assert model.encode(SOURCE, MASK).hidden.shape[:2] == (ROWS, S)
    if model.tie_embeddings:
        assert model.target_embedding.weight.shape == (VOCAB, model.d_model)


def test_the_target_is_not_looked_ahead_and_all_of_the_source_is_seen(model):
    before = model(SOURCE, None, TARGET)
    for t in range(T):
        changed = TARGET.clone()
        changed[:, t] = (changed[:, t] + 1) % VOCAB
        after = model(SOURCE, None, changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], **CLOSE)
        assert not torch.allclose(after[:, t], before[:, t], **CLOSE)
    for s in (0, S - 1):
        changed = SOURCE.clone()
        changed[:, s] = (changed[:, s] + 1) % VOCAB
        assert not torch.allclose(model(changed, None, TARGET)[:, 0], before[:, 0], **CLOSE)


def test_padding_changes_nothing(model):
    hidden = model(SOURCE, MASK, TARGET)
    for row, length in enumerate(LENGTHS):
        alone = model(SOURCE[row : row + 1, :length], None, TARGET[row : row + 1, : length + 1])
        torch.testing.assert_close(hidden[row, : alone.shape[1]], alone[0], **CLOSE)
    assert hidden.isfinite().all()


@pytest.mark.parametrize("sizes", [[1] * T, [3, 1, 2, 1], [T]])
def test_cached_steps_equal_forward(model, sizes):
    state = model.init_state(model.encode(SOURCE, MASK), T)
    pieces = []
    for piece in TARGET.split(sizes, dim=1):
        hidden, state = model.step(piece, state)
        pieces.append(hidden)
    torch.testing.assert_close(torch.cat(pieces, 1), model(SOURCE, MASK, TARGET), **CLOSE)
    assert state.lengths.tolist() == [T] * ROWS


def test_rows_of_different_lengths_step_together(model):
    full = model(SOURCE, MASK, TARGET)
    state = model.init_state(model.encode(SOURCE, MASK), T)
    _, state = model.step(TARGET[:, :4], state, torch.tensor([4, 1, 2]))
    starts = torch.tensor([4, 1, 2])
    hidden, state = model.step(TARGET.gather(1, starts[:, None] + torch.arange(3)), state)
    for row, start in enumerate(starts.tolist()):
        torch.testing.assert_close(hidden[row], full[row, start : start + 3], **CLOSE)
    assert state.lengths.tolist() == (starts + 3).tolist()


@pytest.mark.parametrize(
    "picks",
    [
        [[0, 0, 1, 1, 2, 2], [1, 0, 3, 3, 4, 5]],  # two rows of each source, then other ones of the same
        [[0, 0, 0, 2, 2, 2], [3, 5, 4]],  # a source is finished, then another one
        [[2, 0, 0, 1], [3, 1, 0, 2]],  # any order, any number
        [[1, 1], [0, 1, 1, 0]],
    ],
)
def test_reorder_takes_the_source_along(model, picks):
    state = model.init_state(model.encode(SOURCE, MASK), T)
    _, state = model.step(TARGET[:, :3], state)
    rows = torch.arange(ROWS)
    for pick in picks:
        index = torch.tensor(pick)
        rows, state = rows[index], state.reorder(index)
    hidden, _ = model.step(TARGET[rows, 3:6], state)
    torch.testing.assert_close(hidden, model(SOURCE, MASK, TARGET)[rows, 3:6], **CLOSE)


def test_beams_of_a_source_go_their_own_ways(model):
    """Several rows of each source, of which others are picked after every token, also once a source is done."""
    generator = torch.Generator().manual_seed(4)
    state = model.init_state(model.encode(SOURCE, MASK), 4 * T)
    _, state = model.step(TARGET[:, :2], state, torch.tensor([2, 1, 2]))
    texts = [row[:n] for row, n in zip(TARGET.tolist(), [2, 1, 2], strict=True)]
    sources, beams = [0, 1, 2], 1
    for step, kept in enumerate([[0, 1, 2]] * 10 + [[0, 2]] * 10 + [[2]] * 3):
        parents = [sources.index(s) * beams + p for s in kept for p in torch.randint(beams, (3,), generator=generator)]
        new = torch.randint(3, VOCAB, (len(parents), 1), generator=generator)
        index = torch.tensor([int(parent) for parent in parents])
        texts = [[*texts[parent], int(token)] for parent, token in zip(index.tolist(), new, strict=True)]
        hidden, state = model.step(new, state.reorder(index))
        sources, beams = kept, 3
        assert state.lengths.tolist() == [len(text) for text in texts]
        for row, text in enumerate(texts):
            source = slice(sources[row // 3], sources[row // 3] + 1)
            expected = model(SOURCE[source], MASK[source], torch.tensor([text]))[0, -1]
            torch.testing.assert_close(hidden[row, 0], expected, **CLOSE, msg=f"step {step}, row {row}")
    copy, lengths = state.clone(), state.lengths
    more = random_ids(2, rows=3, seed=9)
    for wanted in (copy, state):
        hidden, after = model.step(more, wanted)
    after = after.truncate(lengths + 1)
    again, _ = model.step(more[:, 1:], after)
    torch.testing.assert_close(again[:, 0], hidden[:, 1], **CLOSE)


def test_more_tokens_than_there_is_room_for_are_refused(model):
    if model.max_seq_len is None:
        return
    state = model.init_state(model.encode(SOURCE, MASK), 3)
    _, state = model.step(TARGET[:, :3], state)
    for each in (state.clone(), state.reorder(torch.tensor([0, 0, 1, 1]))):
        with pytest.raises(InputError, match=r"4 tokens do not fit the .* capacity of 3"):
            model.step(random_ids(1, rows=len(each.lengths)), each)


def test_clone_is_independent_and_truncate_goes_back(model):
    state = model.init_state(model.encode(SOURCE, MASK), 2 * T)
    _, state = model.step(TARGET[:, :3], state)
    copy = state.clone().detach()
    model.step(random_ids(2, seed=5), state)
    hidden, copy = model.step(TARGET[:, 3:], copy)
    full = model(SOURCE, MASK, TARGET)
    torch.testing.assert_close(hidden, full[:, 3:], **CLOSE)
    hidden, _ = model.step(TARGET[:, 5:], copy.truncate(torch.full((ROWS,), 5)))
    torch.testing.assert_close(hidden, full[:, 5:], **CLOSE)


def test_too_long_a_text_is_refused(model):
    if model.max_seq_len is None:
        return
    long = random_ids(model.max_seq_len + 1)
    for source, target in ((long, TARGET), (SOURCE, long)):
        with pytest.raises(InputError, match=f"{model.max_seq_len + 1} tokens are more than model.max_seq_len"):
            model(source, None, target)


def test_impossible_sizes_are_refused(name):
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    for key in SMALL:
        if key in config:
            with pytest.raises(InputError, match=rf"{key} \(-4\) must be at least 1"):
                build(name, **{key: -4})
