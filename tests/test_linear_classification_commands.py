"""`model=tfidf` through the commands: trained, scored and asked like any other model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="model=tfidf needs scikit-learn, of the floor extra")
GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "dull", "poor", "awful")


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Drawing them takes longer than these runs."""
    monkeypatch.setattr("llmcli.results.draw", lambda *told, **named: None)


@pytest.fixture
def reviews(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "reviews.csv"
    rows = [
        f"review {i} was {draw.choice(words)} to read,{draw.choice(labels)}"
        for i in range(80)
        for words, labels in ((GOOD, ["positive"] * 9 + ["negative"]), (BAD, ["negative"]))
    ]
    path.write_text("review,stars\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return [
        "data=labeled_text", f"data.path={path}", "data.reader.text=review", "data.reader.label=stars",
        "data.val_fraction=0.2", "model=tfidf", "trainer.accelerator=cpu",
    ]  # fmt: skip


def test_it_is_trained_scored_and_asked_like_any_other(llm, reviews, tmp_path):
    run = tmp_path / "run"
    trained = llm("train", *reviews, "--json", f"hydra.run.dir={run}")
    assert trained.code == 0, trained.err
    assert "optimizer   none" in trained.err
    figures = json.loads(trained.out)
    for name in ("accuracy", "f1"):  # the floor is the same machine, fitted to the same texts
        assert figures[f"val_{name}"] == pytest.approx(figures[f"floor_{name}"]) and figures[f"val_{name}"] > 0.8
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in content["state_dict"].values())
    scored = llm("eval", f"ckpt={run}", "--json")
    assert scored.code == 0, scored.err
    scored = json.loads(scored.out)
    assert scored["f1"] == pytest.approx(figures["val_f1"]) and scored["intervals"]["accuracy"][0] < scored["accuracy"]
    assert 0 < scored["loss"] < 0.5 and set(scored["classes"]) == {"positive", "negative"}
    answers = llm("predict", f"ckpt={run}", "--text", "it was lovely", "--text", "an awful one", "--text", "", "--json")
    answers = [json.loads(line) for line in answers.out.splitlines()]
    assert [each["label"] for each in answers[:2]] == ["positive", "negative"]
    for each in answers:
        assert sum(entry["probability"] for entry in each["classes"]) == pytest.approx(1)


def test_what_the_batches_leave_out_it_does_not_learn(llm, reviews, tmp_path):
    """Shown ten times as often, the rare label is predicted where it was not."""
    plain, weighted = tmp_path / "plain", tmp_path / "weighted"
    assert llm("train", *reviews, "model.units=characters", "model.longest=1", f"hydra.run.dir={plain}").code == 0
    more = ["model.units=characters", "model.longest=1", "batch.label_weights={positive: 50.0}"]
    result = llm("train", *reviews, *more, f"hydra.run.dir={weighted}")
    assert result.code == 0, result.err
    shares = []
    for run in (plain, weighted):
        [answer] = llm("predict", f"ckpt={run}", "--text", "zzz", "top=2", "--json").out.splitlines()
        shares.append({each["label"]: each["probability"] for each in json.loads(answer)["classes"]}["positive"])
    assert shares[1] > shares[0] + 0.1


def test_several_labels_at_once(llm, tmp_path):
    path = tmp_path / "mail.csv"
    draw = random.Random(1)
    rows = []
    for number in range(80):
        labels = [name for name in ("urgent", "private") if draw.random() < 0.5] or ["urgent"]
        rows.append(f"{number} this is {' and '.join(labels)},{'|'.join(labels)}")
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    run = tmp_path / "run"
    trained = llm(
        "train", "data=labeled_text", f"data.path={path}", "data.reader.label_separator=|", "data.val_fraction=0.2",
        "model=tfidf", "task.several=true", "trainer.accelerator=cpu", f"hydra.run.dir={run}", "--json",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert json.loads(trained.out)["val_micro_f1"] == 1.0
    [answer] = llm("predict", f"ckpt={run}", "--text", "so private and urgent", "--json").out.splitlines()
    assert set(json.loads(answer)["labels"]) == {"urgent", "private"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["task=classification"], "model=tfidf is of kind 'terms' and cannot be trained with task=classification"),
        (["task=linear_classification", "model=lstm"], "model=lstm is of kind 'recurrent' and cannot be trained with"),
        (["model.min_texts=1000"], "no term stands in"),
    ],
)
def test_mistakes(llm, reviews, changes, message):
    refused = llm("train", *reviews, *changes)
    assert refused.code == 2, refused.err
    assert message in refused.err and ("tfidf" in refused.err or "min_texts" in refused.err)
    assert not Path("runs").exists()


def test_there_is_nothing_to_go_on_with_or_to_begin_with(llm, reviews, tmp_path):
    run = tmp_path / "run"
    assert llm("train", *reviews, f"hydra.run.dir={run}").code == 0
    resumed = llm("train", f"resume={run}")
    assert resumed.code == 2 and "nothing to continue" in resumed.err
    begun = llm("train", *reviews, f"init={run}")
    assert begun.code == 2 and "was counted, not trained" in begun.err
