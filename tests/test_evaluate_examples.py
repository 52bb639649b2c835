"""llm eval of a task on examples: a line for each, a page, intervals, another run beside it, and what is refused."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli import assembly, config
from llmcli.answers import Answers
from llmcli.data.records import QuestionAnswer
from llmcli.evaluation import evaluate as evaluate_task
from llmcli.metrics.text import Accuracy
from llmcli.tasks.classification import Classification

sklearn = pytest.importorskip("sklearn.metrics")

WORDS = {"good": ("good", "great", "fine"), "bad": ("bad", "dull", "poor"), "odd": ("odd", "strange", "weird")}
TINY = [
    "tokenizer=word", "batch.size=16", "batch.seq_len=24", "optimizer=adam", "optimizer.lr=0.02", "task.dropout=0",
    "trainer.accelerator=cpu", "trainer.max_steps=30", "trainer.val_every=30",
]  # fmt: skip
DAN = ["model=dan", "model.d_model=16", "model.n=1", "model.rows=0"]


def table(path, *labels, rows=90, seed=0):
    """Texts of unlike lengths whose label a word tells, but for some whose label is another one."""
    draw = random.Random(seed)
    lines = []
    for i in range(rows):
        said = draw.choice(labels)
        label = said if draw.random() < 0.8 else draw.choice(labels)
        filler = " ".join(draw.choice(("the", "film", "was", "a", "very", "much")) for _ in range(draw.randint(0, 12)))
        lines.append(f"{filler} {draw.choice(WORDS[said])} {i},{label}")
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def train(folder, path, *options):
    from llmcli import cli

    data = ["data=labeled_text", f"data.path={path}", "data.val_fraction=0.4"]
    assert cli.main(["train", *data, *TINY, *options, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return train(folder / "run", table(folder / "films.csv", *WORDS), *DAN)


def evaluate(llm, run, *options):
    result = llm("eval", f"ckpt={run}", "bootstrap=100", *options, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def lines(path):
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def test_the_figures_are_those_of_the_lines(llm, run):
    found = evaluate(llm, run)
    assert found["predictions"] == str(run / "eval" / "val" / "predictions.jsonl")
    outcomes = lines(found["predictions"])
    true, predicted = ([each[side] for each in outcomes] for side in ("true", "predicted"))
    names = sorted(WORDS)
    macro = {"average": "macro", "zero_division": 0, "labels": names}
    expected = {
        "accuracy": sklearn.accuracy_score(true, predicted),
        "f1": sklearn.f1_score(true, predicted, **macro),
        "precision": sklearn.precision_score(true, predicted, **macro),
        "recall": sklearn.recall_score(true, predicted, **macro),
        "matthews": sklearn.matthews_corrcoef(true, predicted),
        "loss": sum(each["loss"] for each in outcomes) / len(outcomes),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert 0.4 < found["accuracy"] < 1  # both kinds of example are there
    support = sklearn.precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
    for name, *each in zip(names, *support, strict=True):
        assert list(found["classes"][name].values()) == pytest.approx(each)
    for name, (low, high) in found["intervals"].items():
        assert low < found[name] < high
    assert set(found["intervals"]) == set(expected)
    page = Path(found["report"]).read_text("utf-8")
    matrix = sklearn.confusion_matrix(true, predicted, labels=names)
    shown = [f">{count}<small>{count / row.sum():.1%}</small>" for row in matrix for count in row if count]
    assert Counter(shown) == Counter({cell: page.count(cell) for cell in shown})


def test_the_lines_are_the_split_in_its_order_from_one_pass(llm, run, monkeypatch):
    seen = []
    logits = Classification.logits
    monkeypatch.setattr(Classification, "logits", lambda task, batch: (seen.append(batch), logits(task, batch))[1])
    found = evaluate(llm, run, "batch_size=7", "split=train")
    outcomes = lines(found["predictions"])
    order = [int(each["text"].split()[-1]) for each in outcomes]
    assert order == sorted(order)  # as in the table
    assert sum(len(batch["labels"]) for batch in seen) == len(outcomes)


MODELS = {
    "textcnn": ["model=textcnn", "model.d_embed=12", "model.n_filters=6"],
    "dan": ["model=dan", "model.d_model=12", "model.rows=50"],
    **{
        cell: [f"model={cell}", "model.d_model=12", "model.d_hidden=12", "model.n_layers=2"]
        for cell in ("lstm", "gru", "rnn")
    },
    "transformer": ["model=transformer", "model.d_model=16", "model.n_heads=2", "model.ngram_rows=[50]"],
}


@pytest.mark.parametrize("model", MODELS)
def test_the_rest_of_the_batch_changes_no_line(run, tmp_path, model):
    data = ["data=labeled_text", f"data.path={run.parent / 'films.csv'}", "data.val_fraction=0.4"]
    parts = assembly.build(config.compose("train", [*data, *TINY, *MODELS[model]]), {})
    examples, found = parts.prepared.examples("val"), []
    for size in (1, 64):
        with Answers(parts.task, examples, folder=tmp_path) as answers:
            batches = parts.data.eval_loader("val", size=size)
            evaluate_task(parts.task, batches, device=torch.device("cpu"), text={}, seen=answers)
            found.append(lines(answers.write({}, about={}, subtitle="")["predictions"]))
    alone, together = found
    assert len({len(each["text"].split()) for each in alone}) > 5  # so that there is padding
    for one, other in zip(alone, together, strict=True):
        for name in ("loss", "probability"):
            assert one.pop(name) == pytest.approx(other.pop(name), abs=2e-5)
        assert one == other


def test_intervals_are_the_same_again_and_can_be_left_out(llm, run):
    assert evaluate(llm, run)["intervals"] == evaluate(llm, run, "batch_size=3", "out=none")["intervals"]
    without = evaluate(llm, run, "bootstrap=0")
    assert "intervals" not in without and without["predictions"]
    shown = llm("eval", f"ckpt={run}").out
    assert "95% interval" in shown and "predictions.jsonl" in shown and "report.html" in shown
    [row] = [line.split() for line in shown.splitlines() if line.startswith("good")]
    assert len(row) == 5  # precision, recall, f1 and support of the class


def test_from_python_nothing_is_written_unless_it_is_asked_for(run, tmp_path):
    loaded = llmcli.load(run)
    found = loaded.evaluate()
    assert "predictions" not in found and found["intervals"]["accuracy"]
    found = loaded.evaluate(out=tmp_path / "here", bootstrap=0)
    assert Path(found["predictions"]).parent == tmp_path / "here" and "intervals" not in found


def test_another_checkpoint_or_other_data_has_a_folder_of_its_own(llm, run, tmp_path):
    last = evaluate(llm, run / "checkpoints" / "last.ckpt")
    assert last["predictions"] == str(run / "eval" / "val-last" / "predictions.jsonl")
    other = table(tmp_path / "other.csv", *WORDS, seed=1)
    folder = Path(evaluate(llm, run, "data=labeled_text", f"data.path={other}")["report"]).parent
    assert folder.parent == run / "eval" and folder.name.startswith("all-")


def test_several_labels_and_pairs_are_named(llm, tmp_path):
    several = tmp_path / "several.csv"
    rows = [f"text {i} {'red' if i % 2 else ''} {'big' if i % 3 else ''},{label}" for i, label in enumerate(
        ("red+big" if i % 2 and i % 3 else "red" if i % 2 else "big" if i % 3 else "plain") for i in range(60)
    )]  # fmt: skip
    several.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    many = ["task.several=true", "data.reader.label_separator=+"]
    found = evaluate(llm, train(tmp_path / "several", several, *DAN, *many))
    outcomes = lines(found["predictions"])
    for each in outcomes:
        assert set(each["probabilities"]) == {*each["true"], *each["predicted"]}
        assert each["right"] == (each["true"] == each["predicted"])
    assert found["accuracy"] == pytest.approx(sum(each["right"] for each in outcomes) / len(outcomes))
    assert set(found["classes"]) == {"red", "big", "plain"} and "micro_f1" in found["intervals"]
    assert "Confusion" not in Path(found["report"]).read_text("utf-8")

    pairs = tmp_path / "pairs.csv"
    rows = [f"the {a} cat {i},a {b} dog,{'same' if a == b else 'other'}" for i in range(20) for a in "xy" for b in "xy"]
    pairs.write_text("first,second,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    data = ["data=labeled_pairs", "task.marks=true"]
    found = evaluate(llm, train(tmp_path / "pairs", pairs, *DAN, *data))
    assert all(len(each["texts"]) == 2 and each["true"] in ("same", "other") for each in lines(found["predictions"]))


def test_an_empty_text_is_refused_or_left_out_and_counted(llm, run, tmp_path):
    path = tmp_path / "empty.csv"
    path.write_text('text,label\nfine,good\n"",good\n"  ",bad\n', encoding="utf-8")
    other = ["data=labeled_text", f"data.path={path}"]
    refused = llm("eval", f"ckpt={run}", *other)
    assert refused.code == 2 and 'line 3: the column "text" is empty' in refused.err
    result = llm("eval", f"ckpt={run}", *other, "data.flaws=skip", "--json")
    assert "2 examples are left out: flawed" in result.err
    [found] = lines(json.loads(result.out)["predictions"])
    assert found["text"] == "fine"


# -- another run beside it -------------------------------------------------------------------------------------------


def test_a_run_is_compared_with_another_on_the_same_examples(llm, run, tmp_path):
    worse = train(tmp_path / "worse", run.parent / "films.csv", *DAN, "trainer.max_steps=1")
    found = evaluate(llm, run, f"baseline={worse}")
    apart, figures = found["baseline"]["differences"], found["baseline"]["figures"]
    assert apart["accuracy"]["measured"] == pytest.approx(found["accuracy"] - figures["accuracy"])
    assert figures["accuracy"] == evaluate(llm, worse)["accuracy"]
    assert apart["accuracy"]["low"] <= apart["accuracy"]["measured"] <= apart["accuracy"]["high"]
    itself = evaluate(llm, run, f"baseline={run}")["baseline"]["differences"]
    assert all(each == {"measured": 0, "low": 0, "high": 0, "p": 1} for each in itself.values())
    assert "less the baseline" in Path(found["report"]).read_text("utf-8")
    shown = llm("eval", f"ckpt={run}", f"baseline={worse}").out
    assert "difference" in shown and "baseline" in shown


def test_runs_on_other_examples_are_not_compared(llm, run, trained, tmp_path):
    other = train(tmp_path / "other", table(tmp_path / "other.csv", *WORDS, seed=1), *DAN, "trainer.max_steps=1")
    refused = llm("eval", f"ckpt={run}", f"baseline={other}")
    assert refused.code == 2 and "the baseline would be scored on other examples" in refused.err
    assert "data=... and split=... name what both are to be scored on" in refused.err
    third = table(tmp_path / "third.csv", *WORDS, seed=2)
    assert evaluate(llm, run, f"baseline={other}", "data=labeled_text", f"data.path={third}")["baseline"]
    for one, two in ((run, trained), (trained, run)):
        refused = llm("eval", f"ckpt={one}", f"baseline={two}")
        kinds = ["LanguageModeling", "Classification"] if one == run else ["Classification", "LanguageModeling"]
        assert refused.code == 2 and "the baseline is a {} run, this is a {} run".format(*kinds) in refused.err
    refused = llm("eval", f"ckpt={trained}", f"baseline={trained}")
    assert refused.code == 2 and "baseline= compares runs on examples; this data holds running text" in refused.err


# -- what is refused -------------------------------------------------------------------------------------------------


def test_labels_that_the_run_never_saw_are_refused_or_left_out_and_counted(llm, run, tmp_path):
    path = tmp_path / "maybe.csv"
    path.write_text("text,label\nfine,good\nso so,maybe\ndull,bad\nhm,maybe\n", encoding="utf-8")
    other = ["data=labeled_text", f"data.path={path}"]
    refused = llm("eval", f"ckpt={run}", *other)
    assert refused.code == 2
    assert "the run was not trained on the label 'maybe', which this data has 2 times" in refused.err
    assert "its labels: bad, good, odd; data.unseen_labels=skip leaves such examples out" in refused.err
    result = llm("eval", f"ckpt={run}", *other, "data.unseen_labels=skip", "--json")
    assert result.code == 0, result.err
    assert [each["text"] for each in lines(json.loads(result.out)["predictions"])] == ["fine", "dull"]
    assert "2 examples are left out: with labels that the run was not trained on" in result.err
    test = evaluate(
        llm, run, "data=labeled_text", f"data.path={{test: {path}}}", "split=test", "data.unseen_labels=skip"
    )
    assert test["split"] == "test" and test["tokens"] == 2  # without a train split to know labels by


def test_a_head_of_another_label_set_is_named_as_one(llm, run, tmp_path):
    path = tmp_path / "stars.csv"
    path.write_text("text,label\nfine,5\ndull,1\n", encoding="utf-8")
    refused = llm("eval", f"ckpt={run}", "data=labeled_text", f"data.path={path}")
    assert refused.code == 2
    assert "the run was trained on other labels: none of those in this data is among its own" in refused.err
    assert "its labels: bad, good, odd; a head for these is learned by llm train data=... init=RUN" in refused.err


def test_a_folder_that_holds_something_else_is_left_alone(llm, run, tmp_path):
    assert evaluate(llm, run, "out=here")["report"] == str(Path("here") / "report.html")
    assert evaluate(llm, run, "out=here", "batch_size=5")  # of the same data it is written again
    before = Path("here/predictions.jsonl").read_bytes()
    other = table(tmp_path / "other.csv", *WORDS, seed=1)
    for options in (["split=train"], ["data=labeled_text", f"data.path={other}"]):
        refused = llm("eval", f"ckpt={run}", "out=here", *options)
        assert refused.code == 2 and "here holds predictions for" in refused.err and "another out=FOLDER" in refused.err
    assert Path("here/predictions.jsonl").read_bytes() == before
    Path("mine").mkdir()
    Path("mine/predictions.jsonl").write_text("mine")
    assert llm("eval", f"ckpt={run}", "out=mine").code == 2 and Path("mine/predictions.jsonl").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_scored(llm, run, monkeypatch):
    Path("file").write_text("")
    monkeypatch.setattr(Classification, "logits", lambda task, batch: pytest.fail("it was scored"))
    refused = llm("eval", f"ckpt={run}", "out=file/below")
    assert refused.code == 2 and "the folder file/below for predictions and report cannot be written" in refused.err
    assert "out=none writes neither" in refused.err


def test_a_full_disk_costs_nothing_that_was_there(llm, run, monkeypatch):
    before = Path(evaluate(llm, run, "out=here")["predictions"]).read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmcli.files.os.fsync", full)
    failed = llm("eval", f"ckpt={run}", "out=here")
    assert failed.code == 1 and "cannot write predictions and report to here: No space left on device" in failed.err
    assert "out=none" in failed.err and Path("here/predictions.jsonl").read_bytes() == before
    assert len(list(Path("here").iterdir())) == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("bootstrap=-1", "bootstrap (-1) must be at least 0"),
        ("bootstrap=many", "bootstrap: expected int, got 'many'"),
        ("out=3", "out: expected str, got 3"),
        ("baseline=nowhere", "nowhere"),
    ],
)
def test_options_that_cannot_be(llm, run, option, message):
    refused = llm("eval", f"ckpt={run}", option)
    assert refused.code == 2 and message in refused.err


def test_running_text_is_scored_as_ever(llm, trained):
    found = evaluate(llm, trained)
    assert not {"intervals", "classes", "predictions", "report"} & set(found)
    assert not (trained / "eval").exists()


class OfQuestions:
    """As much of a task as `Answers` needs for intervals."""

    def metrics(self):
        return [Accuracy()]


@pytest.mark.parametrize(("contexts", "wide"), [(["one", "two"], True), (["", ""], False)])
def test_questions_about_one_context_are_drawn_together(contexts, wide):
    """All of one context are right, all of the other wrong: whole contexts leave everything open."""
    examples = [QuestionAnswer(f"{number}?", contexts[number % 2]) for number in range(60)]
    answers = Answers(OfQuestions(), examples, folder=None)
    numbers = torch.arange(60)
    answers.contributions.add(numbers, {"correct": numbers % 2 == 0, "n": torch.ones(60)})
    low, high = answers.intervals(500)["accuracy"]
    assert (low, high) == (0.0, 1.0) if wide else 0.3 < low < high < 0.7
    spread = answers.against(answers, 100)["accuracy"]
    assert (spread["low"], spread["high"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("option", "message", "hint"),
    [
        ("decoding=beam", "decoding= says how texts are made that are scored;", "leave out decoding="),
        ("decoding.beams=3", "decoding= says how texts are made that are scored;", "leave out decoding="),
        ("max_new_tokens=5", "is a Classification run, whose figures come from no such texts", "out max_new_tokens="),
        ("samples=5", "samples= are codes that a VAE draws;", "leave out samples="),
    ],
)
def test_options_that_the_run_has_no_use_for(llm, run, option, message, hint):
    refused = llm("eval", f"ckpt={run}", option)
    assert refused.code == 2 and message in refused.err and hint in refused.err


def test_a_language_model_is_scored_without_writing_anything(llm, trained):
    refused = llm("eval", f"ckpt={trained}", "max_new_tokens=5")
    assert refused.code == 2 and "leave out max_new_tokens=; llm generate writes texts with it" in refused.err
