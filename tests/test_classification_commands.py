"""Classification through the commands: the user's own table to labels, and the mistakes on the way."""

from __future__ import annotations

import json
import random

import pytest

GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "dull", "poor", "awful")
SMALL = [
    "model=dan", "model.d_model=16", "model.n=1", "model.rows=0", "tokenizer=word", "optimizer=adam",
    "optimizer.lr=0.02", "trainer.max_steps=200", "trainer.accelerator=cpu", "batch.size=16", "task.dropout=0",
]  # fmt: skip


@pytest.fixture
def reviews(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "reviews.csv"
    rows = [
        f"review {i} was {draw.choice(words)} to read,{label}"
        for i in range(120)
        for words, label in ((GOOD, "positive"), (BAD, "negative"))
    ]
    path.write_text("review,stars\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return [
        "data=labeled_text", f"data.path={path}", "data.reader.text=review", "data.reader.label=stars",
        "data.val_fraction=0.2",
    ]  # fmt: skip


def test_a_table_is_learned_scored_and_predicted(llm, reviews, tmp_path):
    run = tmp_path / "run"
    trained = llm("train", *reviews, *SMALL, "--json", f"hydra.run.dir={run}")
    assert trained.code == 0, trained.err
    figures = json.loads(trained.out)
    assert figures["val_accuracy"] == figures["val_f1"] == 1.0  # one word decides: the optimum is known
    assert figures["floor_loss"] is None and "llm predict ckpt=" in trained.err
    scored = json.loads(llm("eval", f"ckpt={run}", "--json").out)
    assert scored["f1"] == 1.0 and scored["split"] == "val" and scored["matthews"] == 1.0
    answers = llm("predict", f"ckpt={run}", "--text", "it was lovely", "--text", "an awful one", "top=1", "--json")
    labels = [json.loads(line)["label"] for line in answers.out.splitlines()]
    assert labels == ["positive", "negative"]


def test_every_line_of_a_file_has_its_answer(llm, reviews, tmp_path):
    run, lines = tmp_path / "run", tmp_path / "lines.txt"
    assert llm("train", *reviews, *SMALL, "trainer.max_steps=2", f"hydra.run.dir={run}").code == 0
    lines.write_text("\nit was lovely\n\n\nawful\n\n", encoding="utf-8")
    answers = llm("predict", f"ckpt={run}", "--input", str(lines), "top=1", "--json")
    texts = [json.loads(line)["text"] for line in answers.out.splitlines()]
    assert texts == ["", "it was lovely", "", "", "awful"]


def test_resumed_it_ends_with_the_same_figures(llm, reviews, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [
        *reviews,
        *SMALL,
        "--json",
        "trainer.max_steps=30",
        "schedule=constant",
        "schedule.warmup=0",
        "model.dropout=0.3",
    ]
    expected = json.loads(llm("train", *options, f"hydra.run.dir={whole}").out)
    assert llm("train", *options, "trainer.max_steps=13", "trainer.val_every=3", f"hydra.run.dir={cut}").code == 0
    found = json.loads(llm("train", f"resume={cut}", "trainer.max_steps=30", "--json").out)
    scores = [json.loads(llm("eval", f"ckpt={each}/checkpoints/last.ckpt", "--json").out) for each in (whole, cut)]
    assert scores[0]["loss"] == scores[1]["loss"]
    assert found["steps"] == expected["steps"] == 30


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (["task=language_modeling"], "holds LabeledText records; task=language_modeling learns from Text",
         "it goes with task=classification"),
        (["model=mlp"], "model=mlp is of kind 'window' and cannot be trained with task=classification",
         "or task=language_modeling"),
        (["data.reader.label=star"], 'there is no column "star"; the columns are: review, stars.',
         "data.reader.label=COLUMN"),
        (["batch=windows"], "model=lstm with task=classification learns from examples, and batch=windows gives windows",
         "leave out batch="),
        (["task.class_weights=al"], "task.class_weights: expected one of none, inverse, effective, got 'al'", ""),
    ],
)  # fmt: skip
def test_mistakes(llm, reviews, changes, message, hint):
    refused = llm("train", *reviews, "trainer.max_steps=1", "model=lstm", *changes)
    assert refused.code == 2, refused.err
    assert message in refused.err and hint in refused.err


def test_a_text_model_says_what_it_is_for(llm):
    refused = llm("train", "model=textcnn")
    assert refused.code == 2 and "it goes with task=classification" in refused.err


# -- other data for a run -------------------------------------------------------------------------------------------


def write(path, *labels, rows=6):
    lines = [f"the number {i} of {path.stem} is {label},{label}" for i in range(rows) for label in labels]
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run that tells yes from no, trained on yesno.csv beside it."""
    from llmcli import cli

    folder = tmp_path_factory.mktemp("learned")
    path = write(folder / "yesno.csv", "yes", "no", rows=40)
    code = cli.main(["train", "data=labeled_text", f"data.path={path}", *SMALL, f"hydra.run.dir={folder / 'run'}"])
    assert code == 0
    return folder / "run"


def evaluate(llm, run, *options):
    result = llm("eval", f"ckpt={run}", "data=labeled_text", *options, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_classes_of_other_data_are_known_by_name(llm, learned, tmp_path):
    turned = write(tmp_path / "turned.csv", "no", "yes")
    assert evaluate(llm, learned, f"data.path={turned}")["accuracy"] == 1.0
    alone = evaluate(llm, learned, f"data.path={write(tmp_path / 'alone.csv', 'yes')}")  # not class 0 of the run
    assert alone["accuracy"] == 1.0 and alone["split"] == "all" and alone["f1"] == 0.5


def test_data_in_splits_is_scored_on_its_val_and_never_whole(llm, learned, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for split, rows in (("train", 20), ("val", 3), ("test", 5)):
        write(folder / f"{split}.csv", "yes", "no", rows=rows)
    parts = [f"data.path={folder}"]
    whole, test = evaluate(llm, learned, *parts), evaluate(llm, learned, *parts, "split=test")
    assert (whole["split"], test["split"]) == ("val", "test") and test["tokens"] == whole["tokens"] // 3 * 5
    refused = llm("eval", f"ckpt={learned}", "data=labeled_text", *parts, "split=all")
    assert refused.code == 2 and "there is no split 'all': this data comes in splits" in refused.err


def test_data_with_only_a_test_split_is_scored(llm, learned, tmp_path):
    path = write(tmp_path / "later.csv", "yes", "no")
    found = evaluate(llm, learned, f"data.path={{test: {path}}}", "split=test")
    assert (found["split"], found["accuracy"]) == ("test", 1.0)


def test_the_runs_own_table_is_scored_on_its_val_unless_it_is_read_in_another_way(llm, learned):
    own = [f"data.path={learned.parent / 'yesno.csv'}"]
    assert evaluate(llm, learned, *own)["split"] == "val"
    assert evaluate(llm, learned, *own, "data.reader.text=label")["split"] == "all"


def test_data_that_does_not_fit_the_run_is_refused(llm, learned, trained, corpus, tmp_path):
    table = write(tmp_path / "maybe.csv", "yes", "maybe")
    refused = llm("eval", f"ckpt={learned}", "data=labeled_text", f"data.path={table}")
    assert refused.code == 2 and "the run was not trained on the label 'maybe'" in refused.err
    assert "its labels: no, yes" in refused.err
    refused = llm("eval", f"ckpt={learned}", "data=text", f"data.path={corpus}")
    assert refused.code == 2 and "holds Text records; the run's task learnt from LabeledText or" in refused.err
    refused = llm("eval", f"ckpt={trained}", "data=labeled_text", f"data.path={table}")
    assert refused.code == 2 and "holds LabeledText records; the run's task learnt from Text" in refused.err


@pytest.mark.parametrize("label", ["${oc.env:HOME}", "${seed}", "???"])
def test_a_label_that_no_config_can_hold_is_refused_before_there_is_a_run(llm, tmp_path, label):
    table = write(tmp_path / "odd.csv", label, "yes", rows=30)
    refused = llm("train", "data=labeled_text", f"data.path={table}", *SMALL, "hydra.run.dir=run")
    assert refused.code == 2 and f"the label '{label}' cannot be kept in a run's config" in refused.err
    assert not (tmp_path / "run").exists()


def test_texts_that_stand_in_train_are_scored_with_and_without(llm, tmp_path):
    """The labels of the texts that leaked are turned round, so that the run is wrong about exactly these."""
    folder = tmp_path / "leaky"
    folder.mkdir()
    write(folder / "train.csv", "yes", "no", rows=40)
    train = (folder / "train.csv").read_text().splitlines()
    write(folder / "val.csv", "yes", "no", rows=5)
    turned = [line.replace(",yes", ",?").replace(",no", ",yes").replace(",?", ",no") for line in train[1:5]]
    with (folder / "val.csv").open("a") as file:
        file.write("\n".join(line.upper().replace("YES", "yes").replace("NO", "no") for line in turned) + "\n")
    data = ["data=labeled_text", f"data.path={folder}", "tokenizer.lower_case=true", "clean=[lowercase]"]
    for policy, without in (("report", True), ("drop_leaks", False)):
        run = tmp_path / policy
        assert llm("train", *data, f"duplicates={policy}", *SMALL, f"hydra.run.dir={run}").code == 0
        scored = json.loads(llm("eval", f"ckpt={run}", "--json").out)
        assert scored["accuracy"] == pytest.approx(10 / 14)
        assert ("without_leaks" in scored) == without
        if without:
            clean = scored["without_leaks"]
            assert (clean["examples"], clean["accuracy"], clean["f1"]) == (10, 1.0, 1.0)
            assert clean["floor_accuracy"] == 1.0 and scored["floor_accuracy"] < 1
            [head] = [line for line in llm("eval", f"ckpt={run}").out.splitlines() if line.startswith("figure ")]
            columns = [each.strip() for each in head.split("  ") if each]
            assert columns[-2:] == ["floor", "without leaks, floor"] and "without leaks" in columns
