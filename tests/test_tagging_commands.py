"""Tagging through the commands: the user's own columns to entities in a text, and the mistakes on the way."""

from __future__ import annotations

import json
import random

import pytest

PEOPLE, PLACES = ("Ann", "Bob Lee", "Chen Wei", "Dora"), ("Rome", "New York", "Lima", "Xi an")
SMALL = [
    "model=lstm", "model.d_model=24", "model.n_layers=1", "task.d_characters=8", "task.dropout=0.1", "optimizer=adam",
    "optimizer.lr=0.02", "trainer.max_steps=60", "trainer.accelerator=cpu", "trainer.precision=32-true",
    "trainer.val_every=30", "batch.size=16",
]  # fmt: skip


def column(person, place, day):
    lines = [(word, f"{'B' if i == 0 else 'I'}-PER") for i, word in enumerate(person.split())]
    lines += [("saw", "O"), ("it", "O"), ("in", "O")]
    lines += [(word, f"{'B' if i == 0 else 'I'}-LOC") for i, word in enumerate(place.split())]
    lines += [("on", "O"), (f"day{day}", "O"), (".", "O")]
    return "\n".join(" ".join(line) for line in lines) + "\n"


@pytest.fixture(scope="module")
def news(tmp_path_factory):
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("news") / "news.conll"
    sentences = [column(draw.choice(PEOPLE), draw.choice(PLACES), day) for day in range(160)]
    path.write_text("\n".join(sentences), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def learned(news, cache):
    """A run that finds people and places."""
    from llmcli import cli

    run = news.parent / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_CACHE", str(cache))
        patch.setenv("LLM_RUN_DIR", "")
        code = cli.main(["train", "data=conll", f"data.path={news}", *SMALL, f"hydra.run.dir={run}"])
    assert code == 0
    return run


def test_entities_are_learned_and_scored(llm, learned):
    figures = json.loads((learned / "metrics.json").read_text())
    assert figures["monitor"] == "val_f1" and figures["val_f1"] == figures["val_accuracy"] == 1.0  # the known optimum
    scored = json.loads(llm("eval", f"ckpt={learned}", "--json").out)
    assert scored["f1"] == scored["precision"] == scored["recall"] == 1.0 and scored["split"] == "val"


def test_the_figures_of_few_bits_stand_beside_those_of_float32(llm, news, learned, tmp_path):
    refused = llm("eval", f"ckpt={learned}", "precision=int8")  # a recurrent layer and a small head
    assert refused.code == 2 and "precision=int8" in refused.err
    sizes = ("model=transformer", "model.d_model=32", "model.n_layers=1", "model.n_heads=2")
    kept = [each for each in SMALL if not each.startswith("model")]
    trained = llm("train", "data=conll", f"data.path={news}", *kept, *sizes, f"hydra.run.dir={tmp_path / 'run'}")
    assert trained.code == 0, trained.err
    asked = ("eval", f"ckpt={tmp_path / 'run'}", "precision=int8", "bootstrap=0", f"out={tmp_path / 'int8'}")
    scored = json.loads(llm(*asked, "--json").out)
    assert " · val · int8" in (tmp_path / "int8" / "report.html").read_text("utf-8")
    assert scored["float32"]["precision"] == 1.0 and 0.9 < scored["precision"] <= 1.0
    assert scored["weights"].startswith("int8: ")
    shown = llm(*asked)
    assert shown.code == 0, shown.err
    [line] = [line for line in shown.out.splitlines() if line.startswith("precision")]
    assert line.split()[2:4] == ["1.0000", f"{scored['precision'] - 1:+.2%}"]


def test_entities_of_a_text_stand_where_it_says(llm, learned):
    text = "  Bob Lee saw it in New  York on day999."
    answers = llm("predict", f"ckpt={learned}", "--text", text, "--text", "", "--json")
    found, empty = map(json.loads, answers.out.splitlines())
    shares = [each.pop("probability") for each in found["entities"]]
    assert found == {
        "text": text,
        "entities": [
            {"label": "PER", "text": "Bob Lee", "start": 2, "end": 9},
            {"label": "LOC", "text": "New  York", "start": 20, "end": 29},
        ],
    }
    assert all(0.5 < share <= 1 for share in shares) and empty == {"text": "", "entities": []}


def test_a_softmax_over_sub_words_tags_parts_of_speech(llm, tmp_path):
    words = {"DT": ("the", "a"), "NN": ("cat", "dog", "bird"), "VB": ("sees", "likes")}
    draw = random.Random(0)
    orders = ("DT", "NN", "VB", "DT", "NN")
    sentences = ["".join(f"{draw.choice(words[tag])} {tag}\n" for tag in orders) for _ in range(120)]
    path, run = tmp_path / "speech.conll", tmp_path / "run"
    path.write_text("\n".join(sentences), encoding="utf-8")
    trained = llm(
        "train", "data=conll", f"data.path={path}", "data.reader.scheme=none", "tokenizer=byte", "task.crf=false",
        "task.characters=none", "duplicates=report", *SMALL, "--json", f"hydra.run.dir={run}",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    figures = json.loads(trained.out)
    assert figures["monitor"] == "val_accuracy" and figures["val_accuracy"] == figures["val_f1"] == 1.0
    [answer] = map(
        json.loads, llm("predict", f"ckpt={run}", "--text", "the bird likes a dog", "--json").out.splitlines()
    )
    assert [(each["text"], each["tag"]) for each in answer["tags"]] == [
        ("the", "DT"), ("bird", "NN"), ("likes", "VB"), ("a", "DT"), ("dog", "NN"),
    ]  # fmt: skip


def test_resumed_it_ends_with_the_same_weights(llm, news, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [
        "data=conll",
        f"data.path={news}",
        *SMALL,
        "trainer.val_every=3",
        "schedule=constant",
        "schedule.warmup=0",
    ]
    options += ["task.word_dropout=0.5", "task.dropout=0.5"]
    assert llm("train", *options, "trainer.max_steps=8", f"hydra.run.dir={whole}").code == 0
    assert llm("train", *options, "trainer.max_steps=5", f"hydra.run.dir={cut}").code == 0
    assert llm("train", f"resume={cut}", "trainer.max_steps=8").code == 0
    losses = [
        json.loads(llm("eval", f"ckpt={each}/checkpoints/last.ckpt", "--json").out)["loss"] for each in (whole, cut)
    ]
    assert losses[0] == losses[1]


def test_long_sentences_are_cut_counted_and_scored_whole(llm, learned, news, tmp_path):
    run = tmp_path / "run"
    options = ["data=conll", f"data.path={news}", *SMALL, "trainer.max_steps=1", "batch.seq_len=4", "model=transformer"]
    options += ["model.n_heads=2"]
    trained = llm("train", *(each for each in options if each != "model=lstm"), f"hydra.run.dir={run}", "--json")
    assert trained.code == 0, trained.err
    assert "longer than batch.seq_len (4): " in trained.err and "(cut)" in trained.err
    assert json.loads(trained.out)["val_recall"] <= 0.5  # the places stand beyond what was read


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (["model=ngram", "task=tagging"], "model=ngram is of kind 'counts' and cannot be trained with task=tagging",
         "it goes with task=counting"),
        (["model=mlp"], "model=mlp is of kind 'window' and cannot be trained with task=tagging",
         "or task=language_modeling"),
        (["model=dan"], "model=dan is of kind 'average' and cannot be trained with task=tagging",
         "it goes with task=classification"),
        (["task=classification"], "holds TaggedTokens records; task=classification learns from LabeledText",
         "it goes with task=tagging"),
        (["batch=windows", "model=lstm"], "learns from examples, and batch=windows gives windows", "leave out batch="),
        (["model=lstm", "task.characters=bytes"], "task.characters: expected one of none, cnn, lstm, got 'bytes'", ""),
    ],
)  # fmt: skip
def test_mistakes(llm, news, changes, message, hint):
    refused = llm("train", "data=conll", f"data.path={news}", "trainer.max_steps=1", *changes)
    assert refused.code == 2, refused.err
    assert message in refused.err and hint in refused.err


def test_tags_of_another_set_are_named(llm, learned, tmp_path):
    path = tmp_path / "other.conll"
    path.write_text("UN B-ORG\nmet O\n\n" * 5, encoding="utf-8")
    refused = llm("eval", f"ckpt={learned}", "data=conll", f"data.path={path}")
    assert (
        refused.code == 2 and "the run was not trained on the label 'B-ORG', which this data has 5 times" in refused.err
    )
    assert "its labels: B-LOC, B-PER, I-LOC, I-PER, O" in refused.err


def test_a_tag_that_train_never_has_is_an_error_or_left_out(llm, news, tmp_path):
    val = tmp_path / "val.conll"
    val.write_text(f"UN B-ORG\nmet O\n\n{column('Ann', 'Rome', 1)}", encoding="utf-8")
    options = ["data=conll", f"data.path={{train: {news}, val: {val}}}", *SMALL, "trainer.max_steps=1"]
    refused = llm("train", *options)
    assert refused.code == 2 and "the val split has 'B-ORG' (1 times), which the train split never has" in refused.err
    assert "data.unseen_labels=skip" in refused.err
    assert llm("train", *options, "data.unseen_labels=skip", "hydra.run.dir=run").code == 0


def test_a_span_that_goes_on_with_nothing_is_refused_where_the_scheme_says_so(llm, tmp_path):
    path = tmp_path / "odd.conll"
    path.write_text("".join(f"Ann I-PER\nsaw O\n{day} O\n\n" for day in range(20)), encoding="utf-8")
    options = ["data=conll", f"data.path={path}", *SMALL, "trainer.max_steps=1", "data.val_fraction=0.2"]
    refused = llm("train", *options, "data.reader.scheme=iob2")
    assert refused.code == 2 and "odd.conll, line 1" in refused.err and "I-PER" in refused.err
    found = llm("train", *options, "duplicates=report", "hydra.run.dir=run", "--json")  # IOB1, where I- begins as well
    assert found.code == 0, found.err
