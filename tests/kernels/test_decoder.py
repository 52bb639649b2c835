"""A step by the kernel: what the blocks compute one by one, for every shape, state and precision."""

from __future__ import annotations

import copy

import pytest
import torch

from llmcli.inference import fuse, pack_linears, settle
from llmcli.kernels import build, decoder
from llmcli.models.transformer import Transformer
from llmcli.quantise import quantise

pytestmark = pytest.mark.skipif(not decoder.available(), reason=f"no kernel: {build.load('decoder')[1]}")

SHAPES = [
    {},
    {"n_heads": 1, "n_kv_heads": 1, "qk_norm": False, "activation": "swiglu", "d_ff": 64},
    {"n_heads": 4, "n_kv_heads": 2, "d_model": 384, "activation": "gelu", "d_ff": 160},  # 96 a head
    {"n_heads": 2, "n_kv_heads": 2, "d_model": 256, "n_layers": 1},  # 128
    {"n_heads": 1, "n_kv_heads": 1, "d_model": 256, "ngram_rows": [64]},  # 256
]


@pytest.fixture(params=[1, 2, 3], autouse=True)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def build_model(bits=16, settled=True, **shape):
    sizes = {
        "vocab_size": 50, "max_seq_len": 64, "causal": True, "d_model": 96, "n_layers": 2, "n_heads": 3,
        "n_kv_heads": 1,
        "d_ff": 128, "activation": "relu2", "qk_norm": True, "rope_theta": 100.0, "ngram_rows": [],
        "tie_embeddings": False, "logit_softcap": None, "dropout": 0.0,
    }  # fmt: skip
    torch.manual_seed(0)
    model = Transformer(**{**sizes, **shape}).eval().requires_grad_(False)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.08)
    model.to(torch.bfloat16)
    fuse(model)
    if bits == 16:
        pack_linears(model)
    else:
        quantise(model, bits=bits)
    if settled:
        settle(model)
        assert model._decoder is not None
    return model


@torch.no_grad()
def continued(model, ids, lengths, steps):
    """Hidden states after prompts of these lengths and each of `steps` more tokens, (B, 1 + steps, D); the state."""
    state = model.init_state(len(ids), 40)
    hidden, state = model.step(ids, state, lengths)
    at = (torch.full((len(ids),), ids.shape[1]) if lengths is None else lengths) - 1
    found = [hidden[torch.arange(len(ids)), at]]
    for step in range(steps):
        hidden, state = model.step(torch.full((len(ids), 1), step + 3), state)
        found.append(hidden[:, 0])
    return torch.stack(found, 1).float(), state


def near(found, expected):
    assert found.shape == expected.shape and found.isfinite().all()
    # both round to 8 bits, at other places: against their own distance from float32 it is no more
    assert (found - expected).norm() < 0.015 * expected.norm()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_step_is_what_the_blocks_compute(shape, bits):
    ids = torch.randint(0, 50, (2, 9))
    expected, before = continued(build_model(bits, settled=False, **shape), ids, None, 20)
    found, after = continued(build_model(bits, **shape), ids, None, 20)
    near(found, expected)
    assert torch.equal(before.lengths, after.lengths)
    near(after.cache.keys[..., :29, :].float(), before.cache.keys[..., :29, :].float())
    near(after.cache.values[..., :29, :].float(), before.cache.values[..., :29, :].float())
    assert not after.cache.keys[..., 29:, :].any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [16, 8, 4])
@torch.no_grad()
def test_tokens_at_once_are_what_they_are_one_by_one(shape, bits):
    model = build_model(bits, **shape)
    ids = torch.randint(0, 50, (3, 21))
    state, found = model.init_state(3, 40), []
    for first, end in ((0, 1), (1, 3), (3, 12), (12, 21)):
        hidden, state = model.step(ids[:, first:end], state)
        found.append(hidden)
    one_by_one, expected = model.init_state(3, 40), []
    for at in range(21):
        hidden, one_by_one = model.step(ids[:, at : at + 1], one_by_one)
        expected.append(hidden)
    near(torch.cat(found, 1).float(), torch.cat(expected, 1).float())
    near(state.cache.keys.float(), one_by_one.cache.keys.float())
    near(state.cache.values.float(), one_by_one.cache.values.float())
    assert state.lengths.tolist() == [21, 21, 21]


@torch.no_grad()
def test_a_long_prompt_goes_through_in_pieces(monkeypatch):
    model, ids = build_model(), torch.randint(0, 50, (2, 21))
    before, lengths = torch.randint(0, 50, (2, 6)), torch.tensor([6, 4])
    _, state = model.step(before, model.init_state(2, 30), lengths)
    expected, whole = model.step(ids, state.clone())
    monkeypatch.setattr(decoder, "AT_ONCE", 9)
    calls = []
    monkeypatch.setattr(
        decoder.Decoder, "_piece", lambda *given, _its=decoder.Decoder._piece: calls.append(1) or _its(*given)
    )
    found, pieces = model.step(ids, state)
    near(found.float(), expected.float())
    near(pieces.cache.keys.float(), whole.cache.keys.float())
    assert len(calls) == 6 and pieces.lengths.tolist() == [27, 25]


# few tokens, whose padding the kernel reads as well; more of it than it reads; and hardly any
@pytest.mark.parametrize(("n_new", "real"), [(5, 3), (16, 14), (17, 15), (20, 19)])
@torch.no_grad()
def test_padding_is_no_token(n_new, real):
    model = build_model()
    others = n_new if real == 19 else 1
    before, lengths = torch.randint(0, 50, (3, 6)), torch.tensor([others, real, others - 1])
    ids = torch.randint(0, 50, (3, n_new))
    hidden, state = model.step(before, model.init_state(3, 7 + n_new), torch.tensor([6, 2, 4]))
    hidden, state = model.step(ids, state, lengths)
    assert state.lengths.tolist() == [6 + others, 2 + real, 3 + others]
    last, _ = model.step(torch.full((3, 1), 7), state.clone())
    for row, held in enumerate((6, 2, 4)):
        real = int(lengths[row])
        text = torch.cat((before[row, :held], ids[row, :real]))[None]
        expected, alone = model.step(text, model.init_state(1, 7 + n_new))
        if real:
            near(hidden[row, :real].float(), expected[0, held:].float())
        near(last[row].float(), model.step(torch.tensor([[7]]), alone)[0][0].float())


@pytest.mark.parametrize("rows", [1, 3, 9, 17])
def test_rows_of_unequal_lengths_do_not_depend_on_each_other(rows):
    ids, lengths = torch.randint(0, 50, (rows, 7)), torch.arange(rows) % 7 + 1
    model = build_model()
    found, _ = continued(model, ids, lengths, 6)
    for row in range(rows):
        length = int(lengths[row])
        alone, _ = continued(model, ids[row : row + 1, :length], None, 6)
        near(found[row], alone[0])


def test_a_state_goes_back_and_its_rows_change_places():
    model = build_model()
    ids = torch.randint(0, 50, (2, 5))
    with torch.no_grad():
        _, state = continued(model, ids, None, 4)
        state = state.reorder(torch.tensor([1, 0])).truncate(torch.tensor([5, 5]))
        hidden, _ = model.step(torch.tensor([[3, 4], [3, 4]]), state)
        expected, _ = continued(model, ids.flip(0), None, 2)
    near(hidden.float(), expected[:, 1:])


def test_a_row_that_is_full_keeps_nothing_and_the_others_go_on():
    model = build_model()
    with torch.no_grad():
        state = model.init_state(2, 8)
        ids, lengths = torch.randint(0, 50, (2, 8)), torch.tensor([8, 3])
        _, state = model.step(ids, state, lengths)
        full = state.cache.keys[:, 0].clone()
        hidden, state = model.step(torch.full((2, 1), 4), state, torch.tensor([0, 1]))
        assert torch.equal(state.cache.keys[:, 0], full) and state.lengths.tolist() == [8, 4]
        alone, _ = continued(model, ids[1:, :3], None, 0)
        _, other = model.step(ids[1:, :3], model.init_state(1, 8))
        expected, _ = model.step(torch.tensor([[4]]), other)
    near(hidden[1:].float(), expected.float())
    assert alone.isfinite().all()


def test_long_texts_and_large_scores():
    """Scores far apart, where e^x of most is 0, and more keys than a block of lanes."""
    model = build_model(max_seq_len=64)
    for block in model.blocks:
        block.qkv._weight.mul_(6)
    other = build_model(settled=False)
    for block in other.blocks:
        block.qkv._weight.mul_(6)
    ids = torch.randint(0, 50, (1, 33))
    near(continued(model, ids, None, 6)[0], continued(other, ids, None, 6)[0])


@pytest.mark.parametrize(
    "shape", [{"d_ff": 40}, {"d_model": 48, "n_heads": 3}, {"d_model": 160, "n_heads": 1, "n_kv_heads": 1}]
)
def test_shapes_that_the_kernel_has_not_are_left_to_the_blocks(shape):
    model = build_model(settled=False, **shape)
    settle(model)
    assert model._decoder is None
    assert continued(model, torch.randint(0, 50, (1, 4)), None, 2)[0].isfinite().all()


def test_without_the_kernel_the_blocks_go_on(monkeypatch):
    monkeypatch.setattr(decoder, "available", lambda: False)
    model = build_model(settled=False)
    settle(model)
    assert model._decoder is None


@pytest.mark.parametrize("activation", ["relu2", "swiglu", "gelu"])
def test_what_is_not_finite_stays_visible(activation):
    """In the last layer, where nothing but the token's own sum could hide it."""
    model = build_model(activation=activation)
    model.blocks[-1].up._weight.fill_(float("nan"))
    assert not model.step(torch.tensor([[3]]), model.init_state(1, 8))[0].isfinite().any()


def test_a_key_that_is_not_finite_stays_visible():
    model = build_model()
    _, state = continued(model, torch.randint(0, 50, (2, 5)), None, 0)
    state.cache.keys[1, 0, 0, 2] = float("nan")
    for tokens in (1, 3):
        hidden, _ = model.step(torch.full((2, tokens), 3), state.clone())
        assert not hidden[0].isfinite().any() and hidden[1].isfinite().all()


def test_a_copy_reads_its_own_weights():
    model, ids = build_model(bits=8), torch.randint(0, 50, (1, 4))
    other = copy.deepcopy(model)
    expected, _ = continued(model, ids, None, 3)
    for block in model.blocks:
        block.up.q.zero_()
    assert torch.equal(continued(other, ids, None, 3)[0], expected)
    assert not torch.equal(continued(model, ids, None, 3)[0], expected)


def test_a_state_that_does_not_go_with_the_tokens_is_refused():
    """The kernel would write beyond it."""
    model = build_model()
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"tokens \(3, 1, 96\) .* do not go with keys \(2, 2, 1, \d+, 32\)"):
            model.step(torch.full((3, 1), 4), model.init_state(2, 8))
        state = model.init_state(2, 8)
        state.cache._hold(state.cache.keys.float(), state.cache.values.float())
        with pytest.raises(ValueError, match=r"of torch\.float32"):
            model.step(torch.full((2, 1), 4), state)


def test_lengths_may_lie_anywhere_in_memory():
    model, ids = build_model(), torch.randint(0, 50, (2, 5))
    _, state = continued(model, ids, None, 0)
    hidden, _ = model.step(torch.full((2, 1), 3), state.truncate(torch.tensor(3).expand(2)))
    near(hidden[:, 0].float(), continued(model, ids[:, :3], None, 1)[0][:, 1])


def test_there_is_no_gradient():
    model = build_model()
    model.input_embedding.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match="the kernel has no gradient"):
        model.step(torch.tensor([[3]]), model.init_state(1, 8))


@pytest.mark.parametrize("shape", [{"d_ff": 40}, {"causal": False}])
def test_nothing_is_compiled_for_a_model_that_could_not_use_it(monkeypatch, shape):
    monkeypatch.setattr(decoder, "available", lambda: pytest.fail("asked for"))
    model = build_model(settled=False, **shape)
    assert not model.steps_by_kernel
    settle(model)
    model = build_model(8, settled=False).float()
    settle(model)
    assert model.steps_by_kernel and model._decoder is None
