"""Recurrent models: parity with torch's own modules, carried state, and each way to drop."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llmcli.errors import InputError
from llmcli.models.recurrent import Layer, Recurrent, RecurrentState

VOCAB, WIDTH, HIDDEN = 13, 8, 12
CELLS = ["rnn_tanh", "rnn_relu", "lstm", "gru"]


def build(cell="lstm", seed=0, **changes):
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCAB,
        "causal": True,
        "d_model": WIDTH,
        "d_hidden": None,
        "n_layers": 2,
        "dropout_embedding": 0.0,
        "dropout_input": 0.0,
        "dropout_hidden": 0.0,
        "dropout_output": 0.0,
        "locked_dropout": True,
        "weight_drop": 0.0,
        "tie_embeddings": True,
    }
    return Recurrent(cell=cell, **{**settings, **changes})


def random_ids(rows, length, seed=0):
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def reference(cell, model):
    options = {"num_layers": 2, "batch_first": True, "bidirectional": not model.causal}
    width = WIDTH if model.causal else WIDTH // 2
    if cell.startswith("rnn"):
        network = nn.RNN(WIDTH, width, nonlinearity=cell.removeprefix("rnn_"), **options)
    else:
        network = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](WIDTH, width, **options)
    weights = {
        name.replace("_l0", f"_l{i}"): tensor
        for i, layer in enumerate(model.layers)
        for name, tensor in layer.kernel.state_dict().items()
    }
    network.load_state_dict(weights)
    return network


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_the_stacked_torch_module(cell, causal):
    model = build(cell, causal=causal)
    ids = random_ids(3, 7)
    expected, _ = reference(cell, model)(model.input_embedding(ids))
    torch.testing.assert_close(model(ids), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_carried_state_equals_one_long_text_in_values_and_in_memory(cell):
    model = build(cell, d_hidden=HIDDEN)
    ids = random_ids(2, 12)
    state = model.init_state(2, 12)
    pieces = []
    for piece in ids.split(4, dim=1):
        hidden, state = model.step(piece, state.detach())
        pieces.append(hidden)
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids))
    assert state.lengths.tolist() == [12, 12]
    restored = RecurrentState.from_tensors(state.tensors()).to("cpu")
    after, _ = model.step(ids[:, :3], state)
    torch.testing.assert_close(model.step(ids[:, :3], restored)[0], after, rtol=0, atol=0)


def test_state_tensors_are_plain_and_detach_cuts_the_graph(tmp_path):
    model = build()
    ids = random_ids(2, 4)
    hidden, state = model.step(ids, model.init_state(2, 8))
    torch.save({name: t.detach() for name, t in state.tensors().items()}, tmp_path / "state.pt")
    loaded = RecurrentState.from_tensors(torch.load(tmp_path / "state.pt", weights_only=True))
    assert set(loaded.tensors()) == {"0.0", "0.1", "1.0", "1.1", "lengths"}
    (grad,) = torch.autograd.grad(model.step(ids, state)[0].sum(), hidden, allow_unused=True)
    with_graph = torch.autograd.grad(model.step(ids, state)[0][:, -1].sum(), model.layers[0].kernel.weight_hh_l0)[0]
    cut = torch.autograd.grad(model.step(ids, state.detach())[0][:, -1].sum(), model.layers[0].kernel.weight_hh_l0)[0]
    assert grad is None  # the state, not the hidden, is what the next step reads
    assert not torch.equal(with_graph, cut)


def test_truncate_goes_back_within_the_last_step_only():
    model = build().eval()
    ids = random_ids(2, 9)
    _, state = model.step(ids[:, :4], model.init_state(2, 20))
    _, state = model.step(ids[:, 4:7], state)
    back = state.truncate(torch.tensor([4, 6]))
    assert back.lengths.tolist() == [4, 6]
    hidden, _ = model.step(torch.stack([ids[0, 4:6], ids[1, 6:8]]), back)
    full = model(ids)
    torch.testing.assert_close(hidden, torch.stack([full[0, 4:6], full[1, 6:8]]))
    with pytest.raises(ValueError, match=r"tokens to \[3, 7\]: the last step began at \[4, 4\]"):
        state.truncate(torch.tensor([3, 7]))
    with pytest.raises(ValueError, match="step it first"):
        back.tensors()


def test_empty_rows_keep_their_state():
    model = build().eval()
    ids = random_ids(2, 5)
    _, state = model.step(ids[:, :2], model.init_state(2, 20))
    _, after = model.step(ids[:, 2:5], state, torch.tensor([0, 3]))
    assert after.lengths.tolist() == [2, 5]
    torch.testing.assert_close(after.memories[1][1][0], state.memories[1][1][0], rtol=0, atol=0)
    hidden, _ = model.step(ids[:, 2:5], after)
    torch.testing.assert_close(hidden[0], model(ids)[0, 2:5])


@pytest.mark.parametrize("weight_drop", [0.0, 0.5])
def test_padded_rows_read_both_ways_are_packed_sequences_in_values_and_gradients(weight_drop):
    torch.manual_seed(0)
    layer = Layer(cell="lstm", d_in=3, d_out=8, causal=False, weight_drop=weight_drop).double()
    x, lengths = torch.randn(3, 5, 3, dtype=torch.float64, requires_grad=True), torch.tensor([5, 1, 3])
    torch.manual_seed(1)  # the same recurrent weights are dropped
    y, _ = layer(x, None, lengths)
    torch.manual_seed(1)
    expected, _ = layer._run(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), None)
    expected, _ = pad_packed_sequence(expected, batch_first=True)
    torch.testing.assert_close(y, expected)
    given = [x, *layer.parameters()]
    wanted = torch.autograd.grad(expected.square().sum(), given)
    for found, each in zip(torch.autograd.grad(y.square().sum(), given), wanted, strict=True):
        torch.testing.assert_close(found, each)


def test_weight_drop_thins_the_recurrence_in_training_alone():
    model, plain = build(weight_drop=0.5), build()
    plain.load_state_dict(model.state_dict())
    ids = random_ids(2, 6)
    torch.testing.assert_close(model.eval()(ids), plain(ids), rtol=0, atol=0)
    model.train()
    torch.manual_seed(1)
    dropped = model(ids)
    torch.testing.assert_close(dropped[:, 0], plain(ids)[:, 0])  # nothing has recurred yet
    assert not torch.equal(dropped[:, 1:], plain(ids)[:, 1:])
    dropped.sum().backward()
    grad = model.layers[0].kernel.weight_hh_l0.grad
    assert 0.3 < (grad == 0).float().mean() < 0.7  # a dropped weight learns nothing
    torch.testing.assert_close(model.eval()(ids), plain(ids), rtol=0, atol=0)


def test_locked_dropout_drops_the_same_units_at_every_position():
    embeds = torch.ones(2, 50, WIDTH)
    locked = build(dropout_output=0.5)(None, inputs_embeds=embeds) == 0
    assert torch.equal(locked, locked[:, :1].expand_as(locked))
    assert not torch.equal(locked[0], locked[1])
    fresh = build(dropout_output=0.5, locked_dropout=False)(None, inputs_embeds=embeds) == 0
    assert not torch.equal(fresh, fresh[:, :1].expand_as(fresh))
    assert 0.35 < fresh.float().mean() < 0.65


@pytest.mark.parametrize("rate", ["dropout_input", "dropout_hidden"])
def test_each_dropout_acts_in_training_alone(rate):
    model, plain = build(**{rate: 0.5}), build()
    ids = random_ids(2, 6)
    assert not torch.equal(model(ids), plain(ids))
    torch.testing.assert_close(model.eval()(ids), plain(ids), rtol=0, atol=0)


def test_embedding_dropout_drops_a_word_wherever_it_stands():
    model = build(dropout_embedding=0.5)
    ids = torch.arange(VOCAB).repeat(2, 2)
    x = model.hidden_states(ids)[0]
    gone = (x == 0).all(-1)
    assert 0 < gone.sum() < gone.numel()
    assert torch.equal(gone, gone[:1, :VOCAB].repeat(2, 2))
    torch.testing.assert_close(x[~gone], 2 * model.input_embedding(ids)[~gone])


def test_forget_gates_start_open_and_recurrences_orthogonal():
    lstm = build("lstm").layers[0].kernel
    bias = lstm.bias_ih_l0 + lstm.bias_hh_l0
    assert bias.tolist() == [0.0] * WIDTH + [1.0] * WIDTH + [0.0] * 2 * WIDTH
    for gate in lstm.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(WIDTH))
    relu = build("rnn_relu").layers[0].kernel
    assert torch.equal(relu.weight_hh_l0, torch.eye(WIDTH))


def test_autocast_keeps_the_carried_state_in_the_weights_type():
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden, state = model.step(random_ids(2, 3), model.init_state(2, 8))
        model.step(random_ids(2, 3), state)
    assert {part.dtype for memory in state.memories for part in memory} == {torch.float32}
    torch.testing.assert_close(hidden.float(), model(random_ids(2, 3)), rtol=0.05, atol=0.02)


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"d_model \(7\) must be even with causal=false"):
        build(d_model=7, causal=False)
    with pytest.raises(InputError, match=r"n_layers \(0\) must be at least 1"):
        build(n_layers=0)
    with pytest.raises(InputError, match=r"weight_drop \(1.0\) must be at least 0 and below 1"):
        build(weight_drop=1.0)
    with pytest.raises(InputError, match="cannot continue a text"):
        build(causal=False).init_state(1, 4)
