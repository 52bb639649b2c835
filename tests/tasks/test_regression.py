"""Regression: standardised targets, the loss, predictions in the unit of the data that no batch changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmcli.data.example_batches import collate, shortened
from llmcli.data.records import LabeledPair, LabeledText
from llmcli.errors import InputError
from llmcli.models.dan import DAN
from llmcli.tasks.regression import Regression
from llmcli.tokenizers.char import CharTokenizer

TOKENIZER = CharTokenizer("ab ")
OPTIONS = {
    "causal": False, "value_mean": 50.0, "value_std": 20.0, "marks": False, "pooling": "mean", "dropout": 0.0,
}  # fmt: skip


def make(**changes):
    torch.manual_seed(0)
    model = DAN(vocab_size=TOKENIZER.vocab_size, causal=False, d_model=8, n=1, rows=0, dropout=0.0)
    return Regression(model=model, **{**OPTIONS, **changes})


def batch_of(task, records):
    encode = task.encoder(TOKENIZER)
    rows = [encode(record, [np.array(TOKENIZER.encode(text)) for text in record.texts()]) for record in records]
    return {**collate(rows, encode.pad), "numbers": torch.arange(len(records)), "index": 0}


def shares(count=64):
    """Texts of a and b, whose value is the share of a in per cent: linear in the mean of the embeddings."""
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(["a", "b"], 20, p=[p, 1 - p])) for p in draw.random(count)]
    return [LabeledText(text, value=100 * text.count("a") / len(text)) for text in texts]


def test_what_is_linear_is_learned_and_told_in_its_unit():
    records = shares()
    task = make()
    optimizer = torch.optim.Adam(task.parameters(), lr=0.03)
    for _ in range(250):
        optimizer.zero_grad()
        result = task.train()._step(batch_of(task, records), "train")
        (result.loss / result.n).backward()
        optimizer.step()
    task.eval()
    found = task.predict([each.text for each in records], TOKENIZER, top=1)
    errors = [abs(answer["value"] - record.value) for answer, record in zip(found, records, strict=True)]
    assert max(errors) < 2.0
    with torch.no_grad():
        result = task._step(batch_of(task, records), "val")
    figures = {}
    for metric in task.metrics():
        metric.update({"loss": result.loss, "n": result.n, **result.sums})
        figures[metric.name] = metric.compute()
    assert figures["mse"] == pytest.approx(np.mean(np.square(errors)), rel=1e-3)
    assert figures["mae"] == pytest.approx(np.mean(errors), rel=1e-3)
    assert figures["pearson"] > 0.99 and figures["r2"] > 0.99
    assert figures["loss"] == pytest.approx(figures["mse"] / 20.0**2, rel=1e-4)


def test_outcomes_and_predictions_do_not_depend_on_the_batch():
    task = make().eval()
    records = [LabeledText("ab a", value=40.0), LabeledPair("a", "bb", value=90.0), LabeledText("", value=50.0)]
    with torch.no_grad():
        told = task.outcomes(records, task._step(batch_of(task, records), "val"))
    asked = ["ab a", {"first": "a", "second": "bb"}, ""]
    together = task.predict(asked, TOKENIZER, top=1)
    for one, outcome, record, found in zip(asked, told, records, together, strict=True):
        [alone] = task.predict([one], TOKENIZER, top=1)
        assert alone["value"] == pytest.approx(found["value"], abs=1e-4)
        assert outcome["predicted"] == pytest.approx(found["value"], abs=1e-4) and outcome["true"] == record.value
        assert outcome["right"] == (abs(found["value"] - record.value) < 10)
    assert told[1]["texts"] == ["a", "bb"] and told[0]["text"] == "ab a"


def test_the_head_that_says_nothing_says_the_mean():
    task = make().eval()
    torch.nn.init.zeros_(task.head.linear.weight)
    assert task.predict(["ab"], TOKENIZER, top=1) == [{"text": "ab", "value": 50.0}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value_mean": None, "value_std": None}, "needs numbers to predict; the train split has none"),
        ({"value_std": 0.0}, "every training example has the value 50: there is nothing to learn"),
    ],
)
def test_data_without_numbers_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_an_example_without_its_number_is_named():
    with pytest.raises(InputError, match="an example has no number to predict: 'ab'") as caught:
        batch_of(make(), [LabeledText("ab")])
    assert "data.reader.value=COLUMN" in caught.value.hint


def test_a_text_is_cut_as_in_training():
    """The model reads any length; batch.seq_len says what it was trained on."""
    task, text = make(seq_len=6).eval(), "aaab" + "b" * 20
    encode = task.encoder(TOKENIZER)
    _, ids = shortened(LabeledText(text), [np.array(TOKENIZER.encode(text))], 6 - encode.extra)
    with torch.no_grad():
        trained = task.standardised(torch.tensor(encode.ids(ids))[None], None).item() * 20 + 50
    assert task.predict([text], TOKENIZER, top=1)[0]["value"] == pytest.approx(trained)
    assert make().eval().predict([text], TOKENIZER, top=1)[0]["value"] != pytest.approx(trained)


def test_values_in_their_unit_are_no_tensors_in_double_precision():
    """Which not every device has."""
    task = make().eval()
    result = task._step(batch_of(task, shares(4)), "val")
    assert {value.dtype for value in (result.loss, *result.each.values(), *result.outputs.values())} == {torch.float32}
