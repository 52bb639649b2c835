"""Classification: what an example becomes, which options change the loss, predictions that no batch changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from llmcli.data.example_batches import shortened
from llmcli.data.records import LabeledPair, LabeledText
from llmcli.errors import InputError
from llmcli.heads import SequenceHead
from llmcli.layers.pooling import Pooling
from llmcli.models.recurrent import Recurrent
from llmcli.models.transformer import Transformer
from llmcli.tasks.classification import Classification
from llmcli.tokenizers import char

B, T, D = 3, 7, 8
OPTIONS = {
    "causal": False, "names": ["bad", "good", "mixed"], "name_counts": [6, 3, 1], "several": False, "marks": False,
    "pooling": "max", "dropout": 0.0, "class_weights": "none", "focal_gamma": 0.0, "label_smoothing": 0.0,
}  # fmt: skip
TEXTS = ["a good film", "bad", "good and bad , a mixed film", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return char.train(TEXTS, min_frequency=1)


def lstm(vocab_size=40):
    return Recurrent(
        cell="lstm", vocab_size=vocab_size, causal=False, d_model=D, d_hidden=None, n_layers=1, dropout_embedding=0.0,
        dropout_input=0.0, dropout_hidden=0.0, dropout_output=0.0, locked_dropout=True, weight_drop=0.0,
        tie_embeddings=False,
    )  # fmt: skip


def transformer(vocab_size=40):
    return Transformer(
        vocab_size=vocab_size, max_seq_len=16, causal=False, d_model=D, n_layers=1, n_heads=2, n_kv_heads=None,
        d_ff=None, activation="relu2", qk_norm=True, rope_theta=10000.0, ngram_rows=[], tie_embeddings=False,
        logit_softcap=None, dropout=0.0,
    )  # fmt: skip


def make(model=None, **changes):
    torch.manual_seed(0)
    return Classification(model=model or lstm(), **{**OPTIONS, **changes})


def batch(task, labels=(0, 1, 2)):
    torch.manual_seed(1)
    lengths = torch.tensor([T, 4, 2])
    mask = torch.arange(T) < lengths[:, None]
    ids = torch.randint(16, 40, (B, T)).masked_fill(~mask, 0)
    return {"ids": ids, "mask": mask, "labels": torch.tensor(labels), "n_tokens": B, "n_ids": int(lengths.sum())}


@pytest.mark.parametrize("pooling", ["max", "mean", "first", "last", "attention", "concat"])
@pytest.mark.parametrize("model", [lstm, transformer])
def test_padding_and_the_rest_of_the_batch_change_nothing(pooling, model):
    task = make(model(), pooling=pooling).eval()
    together = batch(task)
    logits = task.logits(together)
    assert logits.shape == (B, 3)
    for row, length in enumerate([T, 4, 2]):
        alone = task.logits({"ids": together["ids"][row : row + 1, :length]})
        torch.testing.assert_close(logits[row], alone[0], rtol=1e-4, atol=1e-5)


def test_poolings_by_hand():
    hidden = torch.tensor([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    expected = {"max": [3.0, 5.0], "mean": [2.0, 3.0], "first": [1.0, 5.0], "last": [3.0, 1.0]}
    expected["concat"] = [*expected["last"], *expected["max"], *expected["mean"]]
    for how, value in expected.items():
        assert Pooling(how, 2)(hidden, mask).tolist() == [value]
    weighing = Pooling("attention", 2)
    nn.init.zeros_(weighing.score[2].weight)
    assert weighing(hidden, mask).tolist() == [[2.0, 3.0]]  # equal scores are the mean
    with pytest.raises(InputError, match=r"pooling \(sum\) must be one of max, mean"):
        SequenceHead(d_model=2, outputs=2, pooling="sum", dropout=0.0)


def test_what_an_example_becomes(tokenizer):
    one = make().encoder(tokenizer)
    ids = [np.array(tokenizer.encode(text)) for text in ("a good film", "bad")]
    row = one(LabeledText("a good film", ("good",)), ids[:1])
    assert (row["ids"].tolist(), row["labels"]) == (tokenizer.encode("a good film"), 1)
    pair = one(LabeledPair("a good film", "bad", ("mixed",)), ids)
    assert pair["ids"].tolist() == [*ids[0], tokenizer.sep_id, *ids[1]]
    marked = make(marks=True).encoder(tokenizer)
    assert marked.ids(ids).tolist() == [tokenizer.cls_id, *ids[0], tokenizer.sep_id, *ids[1], tokenizer.sep_id]
    assert len(marked.ids(ids)) == sum(map(len, ids)) + marked.extra
    several = make(several=True).encoder(tokenizer)
    assert several(LabeledText("x", ("mixed", "bad")), ids[:1])["labels"].tolist() == [1, 0, 1]
    assert one.ids([np.array([], np.int64)]).tolist() == [tokenizer.pad_id]  # an empty text is still an example
    with pytest.raises(InputError, match="an example has 2 labels, not one: 'x'"):
        one(LabeledText("x", ("mixed", "bad")), ids[:1])


def test_the_loss_is_the_cross_entropy_of_the_right_class():
    task = make().eval()
    given = batch(task)
    log_p = task.logits(given).log_softmax(1)
    result = task._step(given, "val")
    assert result.loss.item() == pytest.approx(-log_p[range(B), [0, 1, 2]].sum().item(), rel=1e-5)
    assert (result.n, result.text) == (B, T + 4 + 2)
    assert result.sums["true"].tolist() == [1, 1, 1] and result.sums["hits"].sum() == result.sums["correct"]


@pytest.mark.parametrize(
    "changes", [{"class_weights": "inverse"}, {"class_weights": "effective"}, {"focal_gamma": 2.0}, {"dropout": 0.5}]
)
def test_options_change_the_training_loss(changes):
    losses = []
    for task in (make(), make(**changes)):
        torch.manual_seed(5)
        losses.append(task.train()._step(batch(task), "train").loss.item())
    assert abs(losses[0] - losses[1]) > 1e-3


def test_label_smoothing_is_for_training_alone():
    plain, smooth = make(), make(label_smoothing=0.2)
    given = batch(plain)
    assert plain._step(given, "val").loss == smooth._step(given, "val").loss
    assert plain._step(given, "train").loss != smooth._step(given, "train").loss


def test_several_labels_at_once():
    task = make(several=True)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    result = task._step({**batch(task), "labels": labels}, "val")
    logits = task.logits(batch(task))
    signs = torch.where(labels.bool(), logits, -logits)
    assert result.loss.item() == pytest.approx(torch.log1p(torch.exp(-signs)).sum().item(), rel=1e-5)
    assert result.sums["true"].tolist() == [1, 1, 1]
    assert [metric.name for metric in task.metrics()][-1] == "micro_f1"


def test_predictions_name_classes_and_do_not_depend_on_the_batch(tokenizer):
    task = make(lstm(tokenizer.vocab_size)).eval()
    together = task.predict(TEXTS, tokenizer, top=2)
    for text, found in zip(TEXTS, together, strict=True):
        assert found["text"] == text and found["label"] == found["classes"][0]["label"]
        assert found["label"] in OPTIONS["names"] and len(found["classes"]) == 2
        [alone] = task.predict([text], tokenizer, top=3)
        assert math.fsum(each["probability"] for each in alone["classes"]) == pytest.approx(1, abs=1e-5)
        assert alone["label"] == found["label"]
        assert alone["classes"][0]["probability"] == pytest.approx(found["classes"][0]["probability"], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["bad"], "name_counts": [3]}, "needs two classes or more; the train split has only 'bad'"),
        ({"names": [], "name_counts": []}, "the train split has none"),
        ({"class_weights": "all"}, r"task.class_weights \(all\) must be one of none, inverse, effective"),
        ({"focal_gamma": -1.0}, r"task.focal_gamma \(-1.0\) must be at least 0"),
        ({"label_smoothing": 1.0}, r"task.label_smoothing \(1.0\)"),
        ({"label_smoothing": 0.1, "several": True}, "task.label_smoothing goes with one class"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_a_text_that_is_too_long_for_the_model_is_cut_as_in_training_and_keeps_its_marks(tokenizer):
    task = make(transformer(tokenizer.vocab_size), marks=True, pooling="first").eval()
    ids = tokenizer.encode(text := "a good film and a bad film and")
    encode = task.encoder(tokenizer)
    _, cut = shortened(LabeledText(text), [np.array(ids)], task.max_seq_len - encode.extra)
    logits = task.logits({"ids": torch.from_numpy(encode.ids(cut))[None]})
    [found] = task.predict([text], tokenizer, top=1)
    assert found["classes"][0]["probability"] == pytest.approx(logits.softmax(1).max().item(), abs=1e-5)


def test_a_label_that_was_not_trained_on_is_named(tokenizer):
    encode = make(several=True).encoder(tokenizer)
    with pytest.raises(InputError, match="not trained on the label 'odd'") as caught:
        encode(LabeledText("x", ("bad", "odd")), [np.array([20])])
    assert caught.value.hint == "its labels: bad, good, mixed"


@pytest.mark.parametrize(
    "changes", [{}, {"several": True}, {"class_weights": "inverse"}, {"focal_gamma": 2.0}, {"label_smoothing": 0.1}]
)
def test_what_single_examples_add_is_what_the_batch_has(changes):
    task = make(**changes).eval()
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]) if task.several else torch.tensor([0, 1, 2])
    given = {**batch(task), "labels": labels}
    result = task._step(given, "val")
    torch.testing.assert_close(result.each["loss"].sum(), result.loss)
    assert result.each["n"].tolist() == [1, 1, 1]
    for row in range(B):
        rows = {name: given[name][row : row + 1] for name in ("ids", "mask", "labels")}
        alone = task._step({**rows, "n_tokens": 1, "n_ids": 1}, "val")
        torch.testing.assert_close(alone.loss, result.each["loss"][row], rtol=1e-4, atol=1e-5)
        for name, value in alone.each.items():
            assert name == "loss" or torch.equal(value[0], result.each[name][row])
    known = {"loss": result.loss, "n": torch.tensor(result.n), **result.sums}
    for metric in task.metrics():
        assert set(metric.sums) <= known.keys()


def test_outcomes_name_what_is_true_and_what_was_said():
    task = make().eval()
    result = task._step(batch(task), "val")
    shares = task.logits(batch(task)).softmax(1)
    records = [LabeledText("x", (name,)) for name in OPTIONS["names"]]
    for row, (record, found) in enumerate(zip(records, task.outcomes(records, result), strict=True)):
        assert list(found) == ["text", "true", "predicted", "probability", "right", "loss"]
        assert found["text"] == "x" and [found["true"]] == list(record.labels)
        assert found["predicted"] == task.names[int(shares[row].argmax())]
        assert found["probability"] == pytest.approx(shares[row].max().item(), rel=1e-5)
        assert found["right"] is (found["true"] == found["predicted"])
        assert found["loss"] == pytest.approx(-shares[row, row].log().item(), rel=1e-4)
    pair = task.outcomes([LabeledPair("x", "y", ("bad",))] * B, result)
    assert all(found["texts"] == ["x", "y"] and "text" not in found for found in pair)


def test_outcomes_of_several_labels_name_all_of_them():
    task = make(several=True).eval()
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    result = task._step({**batch(task), "labels": labels}, "val")
    shares = task.logits(batch(task)).sigmoid()
    records = [LabeledText("x", names) for names in (("mixed", "bad"), (), ("good",))]
    expected = [[name for name, share in zip(task.names, row, strict=True) if share > 0.5] for row in shares.tolist()]
    found = task.outcomes(records, result)
    assert [each["true"] for each in found] == [["bad", "mixed"], [], ["good"]]  # in the order of the classes
    assert [each["predicted"] for each in found] == expected
    assert [each["right"] for each in found] == [each["true"] == each["predicted"] for each in found]
    for row, each in enumerate(found):
        assert set(each["probabilities"]) == {*each["true"], *each["predicted"]}
        for name, share in each["probabilities"].items():
            assert share == pytest.approx(shares[row, task.names.index(name)].item(), rel=1e-5)
    classes = task.by_class({name: value.double() for name, value in result.sums.items()})
    assert list(classes) == list(task.names) and [classes[name]["support"] for name in task.names] == [1, 1, 1]


def test_a_text_is_cut_as_in_training(tokenizer):
    """The model reads any length; batch.seq_len says what it was trained on."""
    text = TEXTS[2]
    task = make(lstm(tokenizer.vocab_size), seq_len=6).eval()
    encode = task.encoder(tokenizer)
    _, ids = shortened(LabeledText(text), [np.array(tokenizer.encode(text))], 6 - encode.extra)
    shares = task.logits({"ids": torch.tensor(encode.ids(ids))[None]})[0].softmax(0)
    [found] = task.predict([text], tokenizer, top=1)
    assert found["classes"][0]["probability"] == pytest.approx(shares.max().item(), abs=1e-6)
    [whole] = make(lstm(tokenizer.vocab_size)).eval().predict([text], tokenizer, top=1)
    assert whole["classes"][0]["probability"] != pytest.approx(shares.max().item(), abs=1e-6)
