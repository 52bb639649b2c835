"""The linear floor against scikit-learn used by hand, of each kind of example; where it is shown and where not."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from llmcli import floor
from llmcli.data.examples import EncodeRecords, ExampleWriter
from llmcli.data.prepare import Prepared
from llmcli.data.records import LabeledPair, LabeledText
from llmcli.tokenizers import char

pytest.importorskip("sklearn", reason="the linear floor needs scikit-learn, of the dev extra")
WORDS = ["good", "fine", "dull", "bad", "plot", "film", "end", "cast", "jokes", "never"]


def texts(number, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=6)) for _ in range(number)]


def label(text):
    return "good" if text.count("good") + text.count("fine") > text.count("bad") + text.count("dull") else "bad"


def prepared(folder: Path, **splits) -> Prepared:
    """Records of each split as `llm prepare` stores them."""
    tokenizer = char.train(["abcdefghijklmnopqrstuvwxyz "], min_frequency=1)
    manifest = {"splits": {}, "dtype": "<u2", "record": type(splits["train"][0]).__name__}
    for split, records in splits.items():
        writer = ExampleWriter(folder, split, "<u2", None)
        writer.add(EncodeRecords(tokenizer, "<u2")(records))
        manifest["splits"][split] = writer.close()
    return Prepared(path=folder, manifest=manifest, tokenizer=tokenizer, fresh=True)


def by_hand(train, train_labels, test, test_labels, **features):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.svm import LinearSVC

    weigh = TfidfVectorizer(**features)
    found = LinearSVC(random_state=0).fit(weigh.fit_transform(train), train_labels).predict(weigh.transform(test))
    return {"accuracy": accuracy_score(test_labels, found), "f1": f1_score(test_labels, found, average="macro")}


def chinese(text):
    """Other letters, that make no words."""
    return text.translate({ord(each): 0x4E00 + ord(each) for each in text if each.isalpha()})


@pytest.mark.parametrize(
    ("change", "features"),
    [
        (str, {"token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2)}),
        (chinese, {"analyzer": "char", "ngram_range": (1, 3)}),
    ],
)
def test_it_is_scikit_learns(tmp_path, change, features):
    train, test = texts(60), texts(40, seed=1)
    labels = [[label(text) for text in some] for some in (train, test)]
    labels[0][:10] = reversed(labels[0][:10])  # so that something is wrong
    train, test = list(map(change, train)), list(map(change, test))
    data = prepared(
        tmp_path,
        train=[LabeledText(*each) for each in zip(train, ((name,) for name in labels[0]), strict=True)],
        test=[LabeledText(*each) for each in zip(test, ((name,) for name in labels[1]), strict=True)],
    )
    found = floor.floor_of("linear", data, "test")
    assert found == pytest.approx(by_hand(train, labels[0], test, labels[1], **features))
    assert 0.5 < found["accuracy"] < 1
    assert json.loads((tmp_path / "floors.json").read_text()) == {"test": found}


def test_of_several_labels_each_is_told_by_itself(tmp_path):
    def labels(text):
        return tuple(word for word in ("good", "bad") if word in text.split())

    data = prepared(
        tmp_path, **{split: [LabeledText(text, labels(text)) for text in texts(80, seed)] for split, seed in
                     (("train", 0), ("val", 1))}
    )  # fmt: skip
    found = floor.floor_of("linear", data, "val")
    assert found["accuracy"] > 0.7 and found["f1"] > 0.8


def test_of_a_pair_it_knows_which_text_is_which(tmp_path):
    """The word that decides stands in both texts of every pair, on one side or the other."""
    pairs = [("good film", "bad film"), ("bad film", "good film")] * 10
    records = [LabeledPair(*pair, (pair[0].split()[0],)) for pair in pairs]
    data = prepared(tmp_path, train=records, val=records[:4])
    assert floor.floor_of("linear", data, "val") == {"accuracy": 1.0, "f1": 1.0}


def test_it_learns_from_so_many_characters_chosen_evenly(tmp_path, monkeypatch):
    words = [f"{number:04d}" for number in range(100)]
    data = prepared(
        tmp_path,
        train=[LabeledText(word, ("late" if number > 50 else "early",)) for number, word in enumerate(words)],
        val=[LabeledText("0001", ("early",))],
    )
    monkeypatch.setattr(floor, "MOST_CHARACTERS", 40)
    assert floor._evenly(100, 10) == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert floor.floor_of("linear", data, "val")["accuracy"] == 1.0


def test_of_each_text_it_reads_so_many_characters(tmp_path, monkeypatch):
    """What decides stands behind them."""
    texts = [(f"{'so ' * 4}{word}", word) for word in ("early", "late")] * 20
    records = [LabeledText(text, (label,)) for text, label in texts]
    monkeypatch.setattr(floor, "LONGEST", 11)
    assert floor.floor_of("linear", prepared(tmp_path, train=records, val=records), "val")["accuracy"] == 0.5


def test_there_is_no_floor_where_nothing_can_be_told(tmp_path):
    blank = [LabeledText(" ", ("a",)), LabeledText("  ", ("b",))]
    assert floor.floor_of("linear", prepared(tmp_path, train=blank, val=blank), "val") == {}
    assert floor.floor_of(None, prepared(tmp_path, train=blank, val=blank), "val") == {}


def test_without_scikit_learn_a_note_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    records = [LabeledText("good", ("a",)), LabeledText("bad", ("b",))]
    assert floor.floor_of("linear", prepared(tmp_path, train=records, val=records), "val") == {}
    assert "the linear floor needs the package sklearn (pip install 'llmcli[floor]')" in capsys.readouterr().err
    assert not (tmp_path / "floors.json").exists()  # once it is there, it is counted


def test_a_run_is_shown_beside_it(llm, tmp_path):
    path = tmp_path / "films.csv"
    rows = [f"{text},{label(text)}" for text in texts(80)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    run = tmp_path / "run"
    trained = llm(
        "train", "data=labeled_text", f"data.path={path}", "data.val_fraction=0.3", "model=dan", "model.d_model=8",
        "model.n=1", "model.rows=0", "trainer.max_steps=3", "trainer.accelerator=cpu", f"hydra.run.dir={run}",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    figures = json.loads((run / "metrics.json").read_text())
    beside = f"accuracy {figures['floor_accuracy']:.3f}   f1 {figures['floor_f1']:.3f}"
    assert f"(TF-IDF + linear SVM: {beside})" in trained.err
    result = llm("eval", f"ckpt={run}", "--json")
    assert result.code == 0, result.err
    scored = json.loads(result.out)
    assert (scored["floor_accuracy"], scored["floor_f1"]) == (figures["floor_accuracy"], figures["floor_f1"])
    of_itself = json.loads(llm("eval", f"ckpt={run}", "split=train", "--json").out)
    assert "floor_f1" not in of_itself
    assert np.isclose(figures["floor_accuracy"], 1, atol=0.4)
