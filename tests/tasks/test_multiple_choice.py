"""Multiple choice: rows of a question, the softmax over its choices, predictions that no batch changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.data.example_batches import collate
from llmcli.data.records import MultipleChoice as Question
from llmcli.errors import InputError
from llmcli.models.dan import DAN
from llmcli.models.recurrent import Recurrent
from llmcli.tasks.multiple_choice import ChoiceEncoder, MultipleChoice
from llmcli.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer()
RECORDS = [
    Question("Ann has a cat.", "who?", ("Ann", "Bob", "the cat"), 0),
    Question("", "2 + 2?", ("4", "5"), 0),
    Question("", "", ("one is right", "right is one"), 1, "order"),
    Question("x" * 90, "what?", ("a", "bb", "ccc", "d" * 50), 2),
]


def lstm():
    return Recurrent(
        cell="lstm", vocab_size=272, causal=False, d_model=8, d_hidden=None, n_layers=1, dropout_embedding=0.0,
        dropout_input=0.0, dropout_hidden=0.0, dropout_output=0.0, locked_dropout=True, weight_drop=0.0,
        tie_embeddings=False,
    )  # fmt: skip


def dan():
    return DAN(vocab_size=272, causal=False, d_model=8, n=1, rows=0, dropout=0.0)


def make(model=lstm, **changes):
    torch.manual_seed(0)
    return MultipleChoice(
        model=model(), **{"causal": False, "seq_len": 40, "pooling": "mean", "dropout": 0.0, **changes}
    ).eval()


def batch_of(records, limit=40):
    encode = ChoiceEncoder(tokenizer=TOKENIZER)
    found = [encode.rows(record, encode.ids(record), limit) for record in records]
    batch = collate([row for rows in found for row in rows], encode.pad)
    example = torch.tensor([number for number, rows in enumerate(found) for _ in rows])
    return {**batch, "example": example, "numbers": torch.arange(len(records)), "index": 0}


def test_rows_by_hand():
    encode = ChoiceEncoder(tokenizer=TOKENIZER)
    cls, sep = [TOKENIZER.cls_id], [TOKENIZER.sep_id]
    first, second, _ = encode.rows(RECORDS[0], encode.ids(RECORDS[0]), 40)
    context, question, ann, bob = (TOKENIZER.encode(each) for each in ("Ann has a cat.", "who?", "Ann", "Bob"))
    assert first["ids"].tolist() == [*cls, *context, *sep, *question, *sep, *ann, *sep]
    assert second["ids"].tolist() == [*cls, *context, *sep, *question, *sep, *bob, *sep]
    assert [(row["choice"], row["answer"], row["n_tokens"]) for row in (first, second)] == [(0, 0, 1), (1, 0, 0)]
    bare = encode.rows(RECORDS[2], encode.ids(RECORDS[2]), 40)[0]["ids"]
    assert bare.tolist() == [*cls, *TOKENIZER.encode("one is right"), *sep]
    cut = encode.rows(RECORDS[3], encode.ids(RECORDS[3]), 30)
    assert all(len(row["ids"]) == 30 for row in cut)
    assert TOKENIZER.decode(cut[0]["ids"]) == "x" * 20 + "what?a"  # the longest text is cut


texts = st.text("abc", max_size=20)


@given(records=st.lists(st.tuples(texts, texts, st.lists(texts, min_size=2, max_size=5)), min_size=1, max_size=5),
       limit=st.integers(8, 50))  # fmt: skip
def test_sizes_are_those_of_the_rows(records, limit):
    encode = ChoiceEncoder(tokenizer=TOKENIZER)
    made = [Question(context, question, tuple(choices), 0) for context, question, choices in records]
    ids = [encode.ids(record) for record in made]
    lengths = np.array([len(text) for each in ids for text in each])
    first = np.cumsum([0, *(len(each) for each in ids)])[:-1]
    for most in (limit, 10_000):
        sizes = encode.sizes(lengths, first, None if most == 10_000 else most)
        found = [[len(row["ids"]) for row in encode.rows(*pair, most)] for pair in zip(made, ids, strict=True)]
        assert list(zip(*map(np.ndarray.tolist, sizes), strict=True)) == [(len(r), max(r), sum(r)) for r in found]


@pytest.mark.parametrize("model", [lstm, dan])
def test_the_loss_is_that_of_a_softmax_over_the_choices_of_each_question(model):
    task = make(model)
    result = task._step(batch_of(RECORDS), "val")
    logits = task.logits(batch_of(RECORDS))
    assert logits.shape == (4, 4)
    for row, record in enumerate(RECORDS):
        scores = task.logits(batch_of([record]))[0]  # of this question alone
        assert torch.isinf(logits[row, len(record.choices) :]).all()
        torch.testing.assert_close(logits[row, : len(record.choices)], scores, rtol=1e-4, atol=1e-5)
        loss = -scores.log_softmax(0)[record.answer]
        torch.testing.assert_close(result.each["loss"][row], loss, rtol=1e-4, atol=1e-5)
        assert bool(result.each["correct"][row]) == (int(scores.argmax()) == record.answer)
    assert (result.n, result.text) == (4, int(sum(len(row) for row in rows_of(RECORDS))))
    torch.testing.assert_close(task._step(batch_of(RECORDS), "train").loss, result.loss)


def rows_of(records):
    encode = ChoiceEncoder(tokenizer=TOKENIZER)
    return [row["ids"] for record in records for row in encode.rows(record, encode.ids(record), 40)]


def test_an_untrained_scorer_that_sees_nothing_guesses():
    task = make()
    torch.nn.init.zeros_(task.head.linear.weight)
    losses = task._step(batch_of(RECORDS), "val").each["loss"].tolist()
    assert losses == pytest.approx([math.log(len(record.choices)) for record in RECORDS])


def asked(record):
    named = {"context": record.context, "question": record.question, "choices": list(record.choices)}
    return {name: value for name, value in named.items() if value}


def test_predictions_are_choices_and_do_not_depend_on_the_batch():
    task = make()
    together = task.predict([asked(record) for record in RECORDS], TOKENIZER, top=2)
    predicted = task.outcomes(RECORDS, task._step(batch_of(RECORDS), "val"))
    for record, found, scored in zip(RECORDS, together, predicted, strict=True):
        assert found["choice"] == scored["predicted"] == found["choices"][0]["choice"] and len(found["choices"]) == 2
        assert found["choices"][0]["probability"] == pytest.approx(scored["probability"], abs=1e-5)
        [alone] = task.predict([asked(record)], TOKENIZER, top=9)
        assert sum(each["probability"] for each in alone["choices"]) == pytest.approx(1, abs=1e-5)
        assert alone["choice"] == found["choice"] and len(alone["choices"]) == len(record.choices)
    assert predicted[2]["group"] == "order" and "group" not in predicted[0]
    assert predicted[1]["texts"] == ["2 + 2?", "4", "5"]


def test_options_change_the_outcome():
    given = batch_of(RECORDS)
    usual = make().train()._step(given, "train").loss
    assert make(pooling="max").train()._step(given, "train").loss != usual
    assert make(dropout=0.5).train()._step(given, "train").loss != usual
    long = [asked(RECORDS[3])]
    assert make(seq_len=20).predict(long, TOKENIZER, top=1) != make(seq_len=200).predict(long, TOKENIZER, top=1)


def test_a_tokenizer_without_marks_is_refused():
    tokenizer = ByteTokenizer()
    tokenizer.sep_id = None
    with pytest.raises(InputError, match="needs a tokenizer with <cls> and <sep>"):
        make().encoder(tokenizer)
