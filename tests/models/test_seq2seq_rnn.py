"""The recurrent translator against its formulas, for both cells and both kinds of attention."""

from __future__ import annotations

import pytest
import torch

from llmcli.errors import InputError
from llmcli.models.seq2seq_rnn import Seq2SeqRecurrent

B, S, T, VOCAB = 3, 6, 5, 17
LENGTHS = [6, 2, 4]
MASK = torch.arange(S) < torch.tensor(LENGTHS)[:, None]
KINDS = [(cell, attention) for cell in ("lstm", "gru") for attention in ("luong", "bahdanau")]


def build(cell="lstm", attention="luong", **changes):
    torch.manual_seed(0)
    sizes = {"n_encoder_layers": 2, "n_decoder_layers": 2, "d_model": 8, **changes}
    return Seq2SeqRecurrent(
        cell=cell, vocab_size=VOCAB, attention=attention, share_embeddings=False, tie_embeddings=True,
        **{"dropout": 0.0, **sizes},
    ).double()  # fmt: skip


def ids(length, seed):
    return torch.randint(VOCAB, (B, length), generator=torch.Generator().manual_seed(seed))


SOURCE, TARGET = ids(S, 1), ids(T, 2)


def by_the_formulas(model, row):
    """One row, one token after another, with torch's layers for the encoder and the definitions for the rest."""
    h = model.input_embedding(SOURCE[row : row + 1, : LENGTHS[row]])
    for layer in model.encoder:
        h, _ = layer.kernel(h)
    h = h[0]
    per_layer = model.n_memories
    start = torch.tanh(model.start(h.mean(0))).view(-1, model.d_model)
    memories = [start[i : i + per_layer] for i in range(0, len(start), per_layer)]
    fed, outputs, look = torch.zeros(model.d_model).double(), [], model.look

    def attend(s):
        if model.attention == "bahdanau":
            scores = [look.energy(torch.tanh(look.query(s) + look.key(each)))[0] for each in h]
        else:
            scores = [s @ look.key(each) for each in h]
        return torch.stack(scores).softmax(0) @ h

    for e in model.target_embedding(TARGET[row]):
        beside = attend(memories[-1][0]) if model.attention == "bahdanau" else fed
        x = torch.cat((e, beside))
        for number, cell in enumerate(model.decoder):
            new = cell(x[None], tuple(memories[number][:, None]) if per_layer == 2 else memories[number])
            memories[number] = torch.cat(new) if per_layer == 2 else new
            x = memories[number][0]
        context = beside if model.attention == "bahdanau" else attend(x)
        fed = torch.tanh(model.output(torch.cat((x, context, e))))
        outputs.append(fed)
    return torch.stack(outputs)


@pytest.mark.parametrize(("cell", "attention"), KINDS)
def test_hidden_states_are_those_of_the_formulas(cell, attention):
    model = build(cell, attention)
    hidden = model(SOURCE, MASK, TARGET)
    for row in range(B):
        torch.testing.assert_close(hidden[row], by_the_formulas(model, row))


@pytest.mark.parametrize(("cell", "attention"), KINDS)
def test_steps_equal_forward_and_sources_follow_their_rows(cell, attention):
    model = build(cell, attention)
    whole = model(SOURCE, MASK, TARGET)
    state = model.init_state(model.encode(SOURCE, MASK), T)
    _, state = model.step(TARGET[:, :2], state)
    picked = torch.tensor([2, 0, 2, 1])
    hidden, state = model.step(TARGET[picked, 2:4], state.reorder(picked))
    torch.testing.assert_close(hidden, whole[picked, 2:4])
    hidden, _ = model.step(TARGET[picked, 3:], state.truncate(torch.full((4,), 3)))
    torch.testing.assert_close(hidden, whole[picked, 3:])


def test_no_further_back_than_the_last_step():
    model = build()
    state = model.init_state(model.encode(SOURCE), T)
    for piece in TARGET.split(2, dim=1):
        _, state = model.step(piece, state)
    with pytest.raises(ValueError, match="the last step began at"):
        state.truncate(torch.full((B,), 1))


def test_where_nothing_moves_the_sources_are_not_copied():
    model = build()
    state = model.init_state(model.encode(SOURCE), T).reorder(torch.arange(B).repeat_interleave(2))
    within = state.reorder(torch.tensor([1, 0, 3, 3, 4, 4]))  # what a beam search does in each step
    assert within.sources.hidden is state.sources.hidden
    assert state.reorder(torch.tensor([2, 3])).sources.hidden is not state.sources.hidden


def test_every_parameter_learns_and_dropout_acts_in_training_alone():
    for cell, attention in KINDS:
        model = build(cell, attention, dropout=0.5)
        model(SOURCE, MASK, TARGET).square().sum().backward()
        assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
        model.eval()
        assert torch.equal(model(SOURCE, MASK, TARGET), model(SOURCE, MASK, TARGET))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 7}, r"d_model \(7\) must be even"),
        ({"cell": "rnn"}, r"model.cell \(rnn\) must be one of lstm, gru"),
        ({"attention": "dot"}, r"model.attention \(dot\) must be one of bahdanau, luong"),
        ({"n_decoder_layers": 0}, r"n_decoder_layers \(0\) must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        build(**changes)
