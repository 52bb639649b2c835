"""A language model that chooses: log-probabilities of continuations, whatever they are batched with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.data.example_batches import collate
from llmcli.data.records import MultipleChoice as Question
from llmcli.losses import IGNORED
from llmcli.metrics.groups import by_group, group_sums
from llmcli.models.recurrent import Recurrent
from llmcli.models.transformer import Transformer
from llmcli.tasks.choice_likelihood import ContinuationEncoder
from llmcli.tasks.language_modeling import LanguageModeling
from llmcli.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer()
RECORDS = [
    Question("", "", ("a cat sat", "sat a cat"), 0, "order"),
    Question("it rained", "why?", ("a", "because", "no"), 1, "why"),
    Question("", "", ("one", ""), 0, "order"),
]


def transformer():
    model = Transformer(
        vocab_size=272, max_seq_len=32, causal=True, d_model=8, n_layers=1, n_heads=2, n_kv_heads=None, d_ff=None,
        activation="relu2", qk_norm=True, rope_theta=10000.0, ngram_rows=[50], tie_embeddings=False, logit_softcap=None,
        dropout=0.0,
    )  # fmt: skip
    for weight in model.blocks.parameters():
        torch.nn.init.normal_(weight)  # the output projections begin at zero
    return model


def lstm():
    return Recurrent(
        cell="lstm", vocab_size=272, causal=True, d_model=8, d_hidden=None, n_layers=1, dropout_embedding=0.0,
        dropout_input=0.0, dropout_hidden=0.0, dropout_output=0.0, locked_dropout=True, weight_drop=0.0,
        tie_embeddings=True,
    )  # fmt: skip


def batch_of(records, limit=32):
    encode = ContinuationEncoder(tokenizer=TOKENIZER)
    ids = [[np.array(TOKENIZER.encode(text), np.int64) for text in record.texts()] for record in records]
    found = [encode.rows(*pair, limit) for pair in zip(records, ids, strict=True)]
    batch = collate([row for rows in found for row in rows], encode.pad)
    example = torch.tensor([number for number, rows in enumerate(found) for _ in rows])
    return {**batch, "example": example, "numbers": torch.arange(len(records)), "index": 0}


def make(model, cutoffs=None):
    torch.manual_seed(0)
    task = LanguageModeling(model=model(), causal=True, label_smoothing=0.0 if cutoffs else 0.3, head_cutoffs=cutoffs)
    torch.nn.init.normal_(task.head.weight)
    return task.eval()


def test_rows_by_hand():
    encode = ContinuationEncoder(tokenizer=TOKENIZER)
    ids = [np.array(TOKENIZER.encode(text), np.int64) for text in RECORDS[1].texts()]
    row = encode.rows(RECORDS[1], ids, 32)[1]
    assert TOKENIZER.decode(row["ids"]) == "it rained\nwhy?\nbecaus" and row["ids"][0] == TOKENIZER.eos_id
    assert TOKENIZER.decode([each for each in row["labels"] if each != IGNORED]) == "because"
    short = encode.rows(RECORDS[1], ids, 8)[1]
    assert TOKENIZER.decode(short["ids"]) == "?\nbecaus"


@pytest.mark.parametrize("model", [transformer, lstm])
def test_a_choice_is_worth_its_log_probability_after_the_question(model):
    lm = make(model)
    task = lm.scorer("MultipleChoice")
    assert lm.scorer("LabeledText") is None
    with torch.no_grad():
        logits = task.logits(batch_of(RECORDS))
    for row, record in enumerate(RECORDS):
        before = [
            lm_id for text in (record.context, record.question) if text for lm_id in TOKENIZER.encode(text + "\n")
        ]
        for column, choice in enumerate(record.choices):
            whole = torch.tensor([[TOKENIZER.eos_id, *before, *TOKENIZER.encode(choice)]])
            log_p = lm.head.logits(lm.model(whole))[0].log_softmax(1).detach()
            places = range(len(before), whole.size(1) - 1)
            expected = sum(float(log_p[place, whole[0, place + 1]]) for place in places)
            assert float(logits[row, column]) == pytest.approx(expected, abs=1e-3)
        assert torch.isinf(logits[row, len(record.choices) :]).all()


def test_an_adaptive_softmax_chooses_too():
    def untied():
        model = lstm()
        model.tie_embeddings = False
        return model

    task = make(untied, cutoffs=[100]).scorer("MultipleChoice")
    result = task._step(batch_of(RECORDS), "val")
    told = task.outcomes(RECORDS, result)
    assert [each["right"] for each in told] == (result.each["correct"] > 0).tolist()
    groups = task.by_class(result.sums)
    assert {name: found["questions"] for name, found in groups.items()} == {"order": 2, "why": 1}
    right = float(result.each["correct"].sum())
    assert sum(each["accuracy"] * each["questions"] for each in groups.values()) == right


texts = st.text("abc", max_size=9)


@given(records=st.lists(st.tuples(texts, texts, st.lists(texts, min_size=2, max_size=4)), min_size=1, max_size=4),
       limit=st.integers(2, 40))  # fmt: skip
def test_sizes_are_those_of_the_rows(records, limit):
    encode = ContinuationEncoder(tokenizer=TOKENIZER)
    made = [Question(context, question, tuple(choices), 0) for context, question, choices in records]
    ids = [[np.array(TOKENIZER.encode(text), np.int64) for text in record.texts()] for record in made]
    lengths = np.array([len(text) for each in ids for text in each])
    first = np.cumsum([0, *(len(each) for each in ids)])[:-1]
    sizes = encode.sizes(lengths, first, limit)
    found = [[len(row["ids"]) for row in encode.rows(*pair, limit)] for pair in zip(made, ids, strict=True)]
    assert list(zip(*map(np.ndarray.tolist, sizes), strict=True)) == [(len(r), max(r), sum(r)) for r in found]


def test_groups_add_up_over_batches():
    right = torch.tensor([True, False, True])
    first = group_sums(["b", "a", ""], right)
    second = group_sums(["a"], torch.tensor([True]))
    totals = {name: first.get(name, 0) + second.get(name, 0) for name in first | second}
    assert by_group({**totals, "other": torch.ones(1)}) == {
        "a": {"accuracy": 0.5, "questions": 2},
        "b": {"accuracy": 1.0, "questions": 1},
    }
