"""Questions through the commands: answers in texts, choices, numbers; and the mistakes on the way."""

from __future__ import annotations

import json
import random

import pytest

NAMES, CITIES = ("Ann", "Bob", "Carl", "Dora"), ("Rome", "Oslo", "Lima", "Bern")
SMALL = [
    "model=transformer", "model.d_model=32", "model.n_layers=1", "model.n_heads=2", "model.ngram_rows=[]",
    "optimizer=adam", "optimizer.lr=0.01", "trainer.max_steps=140", "trainer.accelerator=cpu", "batch.size=16",
    "task.dropout=0", "tokenizer=word", "trainer.val_every=140", "batch.seq_len=24",
]  # fmt: skip
READ = "The weather was fine that day . "


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def questions(count=240, filler=3):
    """Who or where, of a text with one name and one city somewhere; when is never said."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        name, city = draw.choice(NAMES), draw.choice(CITIES)
        said = f"{name} lives in {city} now . "
        before = READ * draw.randrange(filler)
        context = (before + said + READ * draw.randrange(filler)).strip() + f" Day {number} ."
        asked, answer = draw.choice([("who ?", name), ("where ?", city), ("when ?", None)])
        starts = [] if answer is None else [context.index(answer)]
        rows.append({"question": asked, "context": context, "answers": [answer] if answer else [], "starts": starts})
    return rows


OWN = ["data=question_rows", "data.reader.starts=starts", "data.val_fraction=0.2"]


@pytest.fixture(scope="module")
def answering(tmp_path_factory, cache):
    """The run of a small reader of texts that are several windows long."""
    from llmcli import cli

    folder = tmp_path_factory.mktemp("answering")
    path = write(folder / "rows.jsonl", questions())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_CACHE", str(cache))
        options = [*OWN, f"data.path={path}", *SMALL, "task.stride=8", f"hydra.run.dir={folder / 'run'}"]
        assert cli.main(["train", *options]) == 0
    return folder / "run"


def answers(llm, run, *options):
    result = llm("predict", f"ckpt={run}", *options, "--json")
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def test_answers_are_learned_and_scored(llm, answering):
    scored = json.loads(llm("eval", f"ckpt={answering}", "--json").out)
    assert scored["exact_match"] == scored["f1"] == 1.0  # names, cities and the questions tell all
    assert scored["answerable_f1"] == scored["unanswerable_accuracy"] == 1.0
    assert scored["floor_f1"] < 0.7 and scored["floor_majority_f1"] < 0.7
    told = json.loads((answering / "metrics.json").read_text("utf-8"))
    assert told["val_f1"] == 1.0


def test_questions_are_asked_with_flags_files_and_lines(llm, answering, tmp_path):
    long = READ * 6 + "Dora lives in Oslo now . " + READ * 6
    place = long.index("Oslo")
    [found] = answers(llm, answering, "--question", "where ?", "--context", long, "top=1")
    assert found == {"question": "where ?", "answer": "Oslo", "answers": found["answers"]}
    [best] = found["answers"]
    assert (best["start"], best["end"]) == (place, place + 4) and 0.5 < best["probability"] <= 1
    text = tmp_path / "text.txt"
    text.write_text(long, encoding="utf-8")
    asked = ["--question", "who ?", "--question", "when ?", "--question", "where ?", "--context-file", str(text)]
    assert [each["answer"] for each in answers(llm, answering, *asked)] == ["Dora", None, "Oslo"]
    rows = [{"question": "who ?", "context": "Ann lives in Rome now .", "id": 7}, {"question": "when ?", "context": ""}]
    path = write(tmp_path / "asked.jsonl", rows)
    assert [each["answer"] for each in answers(llm, answering, "--input", str(path))] == ["Ann", None]
    path.write_text("where ?\tBob lives in Bern now .\n\nwho ?\tBob lives in Bern now .\n", encoding="utf-8")
    assert [each["answer"] for each in answers(llm, answering, "--input", str(path))] == ["Bern", "Bob"]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--question", "who ?"], "--question alone is not enough: this run is asked with question and context",
         '--question "..." --context "..."'),
        (["--text", "who ?"], "--text is not what this run is asked with: question and context", "--question"),
        (["--question", "a", "--context-file", "no.txt"], "--context-file no.txt: No such file", ""),
        (["--input", "asked.jsonl"], '--input asked.jsonl, line 2 has no "context"', '{"question": "...", "context"'),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(llm, answering, tmp_path, options, message, hint):
    write(tmp_path / "asked.jsonl", [{"question": "who ?", "context": "Ann"}, {"question": "who ?"}])
    refused = llm("predict", f"ckpt={answering}", *options)
    assert refused.code == 2 and message in refused.err and hint in refused.err


def test_a_run_of_another_kind_is_asked_with_its_own_texts(llm, trained, answering):
    refused = llm("predict", f"ckpt={trained}", "--question", "who ?", "--context", "Ann")
    assert refused.code == 2 and "is a LanguageModeling run, which predicts nothing about a text" in refused.err
    assert "llm generate" in refused.err
    refused = llm("eval", f"ckpt={answering}", "data=labeled_text", "data.path=x.csv")
    assert refused.code == 2


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (["model=textcnn"], "model=textcnn is of kind 'convolution' and cannot be trained with task=span_qa",
         "it goes with"),
        (["task=multiple_choice"], "holds QuestionAnswer records; task=multiple_choice learns from MultipleChoice",
         "it goes with task=span_qa"),
        (["task.stride=0"], "task.stride (0) must be at least 1", ""),
        (["batch.seq_len=3"], "batch.seq_len (3) must be above the 3 ids that the task adds", ""),
        (["batch.too_long=error", "batch.seq_len=12"], "more than batch.seq_len (12)", "batch.too_long=truncate"),
    ],
)  # fmt: skip
def test_mistakes(llm, tmp_path, changes, message, hint):
    path = write(tmp_path / "rows.jsonl", questions(30))
    refused = llm("train", *OWN, f"data.path={path}", "trainer.max_steps=1", "tokenizer=word", *changes)
    assert refused.code == 2 and message in refused.err and hint in refused.err, refused.err


def test_an_answer_outside_its_context_is_named_and_may_be_left_out(llm, tmp_path):
    rows = questions(60)
    rows[3] = {"question": "who ?", "context": "Ann lives in Rome now .", "answers": ["Rome"], "starts": [900]}
    options = [*OWN, f"data.path={write(tmp_path / 'rows.jsonl', rows)}", *SMALL, "trainer.max_steps=1", "--dry-run"]
    refused = llm("train", *options)
    assert refused.code == 2 and "the answer 'Rome' does not stand at character 900 of its context" in refused.err
    assert "rows.jsonl" in refused.err and "data.flaws=skip" in refused.err
    for allowed in ("data.flaws=skip", "data.reader.offsets=find"):
        assert llm("train", *options, allowed).code == 0


def test_long_texts_are_cut_where_there_are_no_windows(llm, tmp_path):
    path = write(tmp_path / "rows.jsonl", questions(60))
    options = [*OWN, f"data.path={path}", *SMALL, "--dry-run", "trainer.max_steps=1"]
    for changes, fate in (
        ([], "(in windows)"),
        (["task.stride=null"], "(cut)"),
        (["batch.too_long=drop"], "(left out)"),
    ):
        assert fate in llm("train", *options, *changes).err


# -- choices and numbers --------------------------------------------------------------------------------------------


def test_choices_are_learned_scored_and_made(llm, tmp_path):
    draw = random.Random(0)
    rows = []
    for _ in range(200):
        choices = [draw.choice(NAMES), draw.choice(CITIES), *(["nobody"] if draw.random() < 0.5 else [])]
        right, asked = draw.choice([(choices[0], "who ?"), (choices[1], "where ?")])
        draw.shuffle(choices)
        rows.append({"question": asked, "choices": choices, "answer": choices.index(right)})
    path, run = write(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    small = [each for each in SMALL if not each.startswith("model.d_model")]
    options = ["data=choices", f"data.path={path}", "data.val_fraction=0.2", *small, "model.d_model=16"]
    trained = llm("train", *options, "trainer.max_steps=70", f"hydra.run.dir={run}")
    assert trained.code == 0, trained.err
    assert json.loads((run / "metrics.json").read_text("utf-8"))["val_accuracy"] == 1.0
    assert '--question "..." --choice "..."' in trained.err
    asked = ["--question", "where ?", "--choice", "Ann", "--choice", "Lima", "--choice", "nobody"]
    [found] = answers(llm, run, *asked, "top=2")
    assert found["choice"] == "Lima" and len(found["choices"]) == 2


def test_numbers_are_learned_scored_and_told(llm, tmp_path):
    draw = random.Random(0)
    stars = {"awful": 1, "poor": 2, "fine": 3, "good": 4, "great": 5}
    rows = [
        {"text": f"a {word} film of {draw.choice(CITIES)}", "stars": 100 * value}
        for _ in range(40)
        for word, value in stars.items()
    ]
    path, run = write(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    data = ["data=labeled_text", f"data.path={path}", "data.reader.label=null", "data.val_fraction=0.2"]
    options = [*data, "task=regression", "model=dan", "model.d_model=16", "model.n=1", "model.rows=0", "task.dropout=0"]
    options += ["optimizer=adam", "optimizer.lr=0.03", "trainer.max_steps=150", "trainer.accelerator=cpu"]
    refused = llm("train", *options)
    assert refused.code == 2 and "task=regression needs numbers to predict" in refused.err
    trained = llm("train", *options, "data.reader.value=stars", f"hydra.run.dir={run}")
    assert trained.code == 0, trained.err
    scored = json.loads(llm("eval", f"ckpt={run}", "--json").out)
    assert scored["pearson"] > 0.99 and scored["mae"] < 60 and scored["mse"] < 3600
    found = answers(llm, run, "--text", "a great film of Rome", "--text", "a poor film of Rome")
    assert [each["value"] for each in found] == pytest.approx([500, 200], abs=100)


def test_pairs_are_classified_with_two_texts(llm, tmp_path):
    draw = random.Random(0)
    rows = []
    for _ in range(150):
        first, second = draw.choice(NAMES), draw.choice([*NAMES, *CITIES])
        rows.append({"first": first, "second": second, "label": "people" if second in NAMES else "else"})
    path, run = write(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    options = ["data=labeled_pairs", f"data.path={path}", "data.val_fraction=0.2", "duplicates=report", "model=dan",
               "model.d_model=16", "model.n=1", "model.rows=0", "optimizer=adam", "optimizer.lr=0.03",
               "trainer.max_steps=60", "trainer.accelerator=cpu", "task.dropout=0"]  # fmt: skip
    trained = llm("train", *options, f"hydra.run.dir={run}")
    assert trained.code == 0 and '--first "..." --second "..."' in trained.err, trained.err
    asked = ["--first", "Ann", "--second", "Bob", "--second", "Rome"]
    found = answers(llm, run, *asked, "top=1")
    assert [each["texts"] for each in found] == [["Ann", "Bob"], ["Ann", "Rome"]]
    assert [each["label"] for each in found] == ["people", "else"]


def test_a_language_model_chooses_what_it_finds_more_probable(llm, trained, tmp_path):
    rows = [
        {"good": f"the {one} sees the moon.", "bad": f".moon the {one} zqx", "kind": one} for one in ("cat", "bird")
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    options = ["data=choices", f"data.path={path}", "data.reader.choices=[good,bad]", "data.reader.answer=null"]
    options += ["data.reader.question=null", "data.reader.group=kind"]
    result = llm("eval", f"ckpt={trained}", *options, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["accuracy"] == 1.0 and found["split"] == "all" and "perplexity" not in found
    assert found["classes"] == {each: {"accuracy": 1.0, "questions": 1} for each in ("bird", "cat")}
    refused = llm("train", *options, "task=language_modeling", "batch=windows")
    assert refused.code == 2 and "task=language_modeling learns from Text" in refused.err
