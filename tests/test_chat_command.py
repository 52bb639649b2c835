"""Conversations through the commands: taught, scored, talked with, preferred; and the mistakes on the way."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import llmcli
from llmcli import checkpoint, ui
from llmcli.assembly import opening
from llmcli.chat import Dialogue, StoppedError
from llmcli.data.records import Conversation, Preference, Turn
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError

GREEDY = Greedy(penalties=Penalties(repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=0))
MODEL = [
    "tokenizer=byte", "model.d_model=32", "model.n_layers=1", "model.n_heads=2", "model.ngram_rows=[512]",
]  # fmt: skip
SMALL = [
    "batch.size=16", "batch.seq_len=96", "trainer.accelerator=cpu", "trainer.val_batches=2",
    "callbacks.samples.max_new_tokens=4",
]  # fmt: skip
NAMES, THINGS = ["Ada", "Ben", "Eva"], ["cup", "map", "hat"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Conversations, and preferences for the true answer over another one."""
    draw, folder = random.Random(3), tmp_path_factory.mktemp("talk")
    talks, pairs = [], []
    for number in range(120):
        name, thing = draw.choice(NAMES), draw.choice(THINGS)
        asked = {"role": "user", "content": f"{name} has {number} {thing}s. What?"}
        messages = [asked, {"role": "assistant", "content": f"A {thing}."}]
        if number % 2:
            messages += [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": f"{name}."}]
        talks.append(json.dumps({"messages": messages}))
        pairs.append(json.dumps({"messages": [asked], "chosen": f"A {thing}.", "rejected": "I am not sure."}))
    paths = folder / "talks.jsonl", folder / "pairs.jsonl"
    for path, lines in zip(paths, (talks, pairs), strict=True):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def run_of(cache, folder, *options):
    from llmcli import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_CACHE", str(cache))
        patch.setenv("LLM_RUN_DIR", "")
        assert cli.main(["train", *options, *SMALL, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def taught(files, cache, tmp_path_factory):
    """A run that was taught to answer, in a few steps."""
    folder = tmp_path_factory.mktemp("chat") / "run"
    options = ["data=chat", f"data.path={files[0]}", *MODEL, "trainer.max_steps=25", "trainer.val_every=25"]
    return run_of(cache, folder, *options, "task.pack=true")


@pytest.fixture(scope="module")
def preferring(files, taught, cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preference") / "run"
    options = ["data=preferences", f"data.path={files[1]}", f"init={taught}", "optimizer.lr=0.002"]
    return run_of(cache, folder, *options, "trainer.max_steps=8", "trainer.val_every=4")


@pytest.fixture
def lines(monkeypatch):
    """Give the next command these lines as standard input, which is no terminal."""

    def give(*texts):
        content = io.TextIOWrapper(io.BytesIO("".join(f"{text}\n" for text in texts).encode()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", content)

    return give


def test_each_line_of_a_pipe_is_answered(llm, taught, lines, tmp_path):
    lines("Ada has a hat. What?", "Who?", "/save talk.jsonl", "/system Be brief.", "//x", "/reset", "/save two.jsonl")
    result = llm("chat", f"ckpt={taught}", "decoding.temperature=0", "max_new_tokens=9", "--json")
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 0 and [each["message"] for each in answers] == ["Ada has a hat. What?", "Who?", "/x"]
    assert answers[0]["reused_tokens"] == 0 and answers[1]["reused_tokens"] > 20
    saved = json.loads((tmp_path / "talk.jsonl").read_text("utf-8"))
    assert saved == {
        "messages": [
            {"role": "user", "content": "Ada has a hat. What?"},
            {"role": "assistant", "content": answers[0]["text"]},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": answers[1]["text"]},
        ]
    }
    empty = json.loads((tmp_path / "two.jsonl").read_text("utf-8"))
    assert empty == {"messages": [{"role": "system", "content": "Be brief."}]}


def test_answers_stand_on_lines_of_their_own_and_all_else_on_stderr(llm, taught, lines):
    lines("Ada has a hat. What?", "/help", "Who?", "/quit", "never read")
    said = llm(
        "chat", f"ckpt={taught}", "decoding.temperature=0", "max_new_tokens=3", "--system", "Say ${x} or {{ y }}."
    )
    lines("Ada has a hat. What?", "Who?")
    told = llm(
        "chat",
        f"ckpt={taught}",
        "decoding.temperature=0",
        "max_new_tokens=3",
        "--json",
        "--system",
        "Say ${x} or {{ y }}.",
    )
    texts = [json.loads(line)["text"] for line in told.out.splitlines()]
    assert said.out == "".join(f"{text}\n" for text in texts)
    assert "/save FILE" in said.err and "the answer was cut after 3 tokens" in said.err


def test_guessing_ahead_answers_alike_and_generate_says_how_to_talk(llm, taught, lines, tmp_path):
    likeness = shutil.copy(taught / "checkpoints" / "best.ckpt", tmp_path / "likeness.ckpt")
    asked = ["chat", f"ckpt={taught}", "decoding.temperature=0", "max_new_tokens=9", "--json"]
    said = []
    for ways in ([], ["decoding=lookup"], ["decoding=speculative", f"decoding.draft={likeness}"]):
        lines("Ada has a hat. What?", "Who?")
        result = llm(*asked, *ways)
        said.append([json.loads(line)["text"] for line in result.out.splitlines()])
    assert len(said[0]) == 2 and said[0] == said[1] == said[2]
    generated = llm("generate", f"ckpt={taught}", "max_new_tokens=2", "--prompt", "Ada")
    assert generated.code == 0 and generated.err.count(f"hint: llm chat ckpt={taught} talks with it") == 1


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["hi", "/nope"], "standard input, line 2: there is no command /nope"),
        (["/save"], "line 1: /save needs a file"),
        (["hi", "/save talks.txt"], "talks.txt is there already"),
        (["/save no/where/talk.txt"], "no/where/talk.txt cannot be written"),
        (["x" * 200], "the message is too long: 203 tokens with all that stands around it, and the model sees 96"),
    ],
)
def test_a_mistake_in_a_pipe_ends_it(llm, taught, lines, tmp_path, typed, message):
    (tmp_path / "talks.txt").write_text("mine", encoding="utf-8")
    lines(*typed)
    refused = llm("chat", f"ckpt={taught}", "max_new_tokens=2")
    assert refused.code == 2 and message in refused.err
    assert (tmp_path / "talks.txt").read_text("utf-8") == "mine"


class Terminal:
    """What a user types, line by line: texts, or errors such as Ctrl-C gives."""

    def __init__(self, monkeypatch, *typed):
        self.typed = iter(typed)
        monkeypatch.setattr(ui, "ask", self)
        monkeypatch.setattr(sys, "stdin", self)

    def isatty(self):
        return True

    def __call__(self, prompt):
        line = next(self.typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line


def test_ctrl_c_stops_the_answer_and_not_the_program(llm, taught, monkeypatch):
    pieces = []

    def stream(piece):
        pieces.append(piece)
        if len(pieces) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ui, "stream", stream)
    Terminal(monkeypatch, "hi", "/save a.jsonl", "/foo", KeyboardInterrupt(), "again", "/save a.jsonl")
    before = signal.getsignal(signal.SIGINT)
    result = llm("chat", f"ckpt={taught}", "decoding.temperature=3", "decoding.top_p=null", "max_new_tokens=40")
    assert result.code == 0 and signal.getsignal(signal.SIGINT) is before
    assert "stopped" in result.err and "there is no command /foo" in result.err and "Ctrl-D or /quit ends" in result.err
    messages = json.loads(Path("a.jsonl").read_text("utf-8"))["messages"]
    assert [each["content"] for each in messages][::2] == ["hi", "again"]
    assert messages[1]["content"] == "".join(pieces[:3])
    assert "".join(pieces) == messages[1]["content"] + messages[3]["content"]


def test_a_second_ctrl_c_takes_the_message_back(llm, taught, monkeypatch):
    def stream(piece):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ui, "stream", stream)
    Terminal(monkeypatch, "hi", "/save a.jsonl")
    result = llm("chat", f"ckpt={taught}", "max_new_tokens=40")
    assert result.code == 0 and "the message was not said" in result.err
    assert json.loads(Path("a.jsonl").read_text("utf-8")) == {"messages": []}


# -- the dialogue --------------------------------------------------------------------------------------------------


def dialogue(run, **settings):
    loaded = checkpoint.load(run / "checkpoints" / "best.ckpt")
    return Dialogue(loaded.task, loaded.tokenizer, **{"strategy": GREEDY, "max_new_tokens": 12, "seed": 1, **settings})


def test_what_is_remembered_changes_no_answer(taught):
    talk = dialogue(taught)
    messages = ["Ada has a cup. What?", "Who?", "Really?"]
    for number, message in enumerate(messages):
        answer = talk.ask(message)
        anew = dialogue(taught).after(talk.turns[: 2 * number])
        # those that were said elsewhere are encoded again, and read from the beginning
        fresh = anew.ask(message)
        assert fresh.text == answer.text and fresh.reused == 0
        assert (answer.reused > 0) == (number > 0)


def test_the_oldest_turns_are_forgotten_together_and_saved_all_the_same(taught):
    talk = dialogue(taught, system="Be kind.")
    answers = [talk.ask(f"message number {number}") for number in range(6)]
    forgotten = [each.forgotten for each in answers]
    assert forgotten[0] == 0 and sum(forgotten) >= 6 and all(each % 2 == 0 for each in forgotten)
    assert len(talk.record()["messages"]) == 13
    assert all(each.tokens <= 12 for each in answers)
    prompt, first = talk._prompt(talk._encode("and now?"))
    assert first % 2 == 0 and len(prompt) + 12 <= 96
    assert prompt[:9] == [7, *talk._encode("Be kind.")]


def test_a_listener_may_stop_an_answer(taught):
    talk = dialogue(taught)
    heard = []

    def listen(piece):
        heard.append(piece)
        raise StoppedError

    answer = talk.ask("Ada has a cup. What?", listen)
    assert answer.finish_reason == "stopped" and answer.text == heard[0] and len(heard) == 1
    assert [turn.role for turn in talk.turns] == ["user", "assistant"]
    assert talk.ask("Who?").reused > 0


def test_a_message_that_cannot_be_held_was_not_said(taught):
    talk = dialogue(taught)
    with pytest.raises(InputError, match="and the model sees 96") as caught:
        talk.ask("x" * 100)
    assert caught.value.hint == "say it in fewer words" and talk.turns == []


def test_from_python(taught, trained):
    run = llmcli.load(taught)
    answer = run.chat("Ada has a cup. What?", temperature=0.0, max_new_tokens=12)
    assert answer == dialogue(taught).ask("Ada has a cup. What?").text
    turns = [("system", "Be kind."), ("user", "Ada has a cup. What?"), ("assistant", "A cup."), ("user", "Who?")]
    after = run.chat([{"role": role, "content": text} for role, text in turns], temperature=0.0, max_new_tokens=12)
    expected = dialogue(taught, system="Be kind.").after([Turn(*each) for each in turns[1:3]])
    assert after == expected.ask("Who?").text
    with pytest.raises(InputError, match="the user must have the last turn"):
        run.chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    with pytest.raises(InputError, match="LanguageModeling run, which was not taught to converse"):
        llmcli.load(trained).chat("hi")


# -- teaching ------------------------------------------------------------------------------------------------------


def test_a_run_that_was_not_taught_says_what_it_can_do(llm, trained):
    refused = llm("chat", f"ckpt={trained}")
    assert refused.code == 2 and "is a LanguageModeling run, which was not taught to converse" in refused.err
    assert f"llm generate ckpt={trained} continues a text" in refused.err
    assert f"llm train data=chat data.path=FILE init={trained} teaches it to converse" in refused.err


def test_a_language_model_is_taught_with_its_head(llm, trained, files, tmp_path):
    options = ["data=chat", f"data.path={files[0]}", f"init={trained}", "batch.seq_len=16", "trainer.max_steps=1"]
    learned = llm("train", *options, "trainer.accelerator=cpu", "batch.size=4", f"hydra.run.dir={tmp_path / 'run'}")
    assert learned.code == 0 and "next    llm chat ckpt=" in learned.err
    record = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.ckpt").config["init"]
    assert record["new"] == record["left"] == []


def test_a_chat_run_is_scored(llm, taught, files):
    figures = json.loads(llm("eval", f"ckpt={taught}", "--json").out)
    assert {"loss", "perplexity", "accuracy", "intervals"} <= figures.keys()
    low, high = figures["intervals"]["loss"]
    assert low < figures["loss"] < high
    metrics = json.loads((taught / "metrics.json").read_text("utf-8"))
    assert metrics["val_loss"] == pytest.approx(figures["loss"], abs=1e-4)
    before = json.loads(llm("eval", f"ckpt={taught}", "data=preferences", f"data.path={files[1]}", "--json").out)
    assert 0 <= before["likelihood_accuracy"] <= 1


def test_preferences_go_on_from_a_run_and_its_template(llm, files, taught, preferring):
    refused = llm("train", "data=preferences", f"data.path={files[1]}")
    assert refused.code == 2 and "task=preference goes on from a run that answers already: init=RUN" in refused.err
    loaded = checkpoint.load(preferring / "checkpoints" / "best.ckpt")
    begun = checkpoint.load(taught / "checkpoints" / "best.ckpt")
    assert loaded.config["task"]["template"] == begun.config["task"]["template"]
    for name, weight in begun.task.model.state_dict().items():  # the reference is what it began with
        assert torch.equal(weight, loaded.task.reference.copies[0].state_dict()[name]), name
    figures = json.loads(llm("eval", f"ckpt={preferring}", "--json").out)
    assert figures["loss"] < 0.693 and figures["margin"] > 0 and figures["accuracy"] > 0.5
    rows = [json.loads(line) for line in Path(figures["predictions"]).read_text("utf-8").splitlines()]
    assert sum(row["right"] for row in rows) / len(rows) == pytest.approx(figures["accuracy"])


def test_a_resumed_preference_run_keeps_its_reference(llm, files, taught, preferring, tmp_path):
    cut = tmp_path / "cut"
    options = [
        "data=preferences", f"data.path={files[1]}", f"init={taught}", "optimizer.lr=0.002", *SMALL,
        "trainer.val_every=4", "schedule=constant",
    ]  # fmt: skip
    whole = tmp_path / "whole"
    assert llm("train", *options, "trainer.max_steps=8", f"hydra.run.dir={whole}").code == 0
    assert llm("train", *options, "trainer.max_steps=4", f"hydra.run.dir={cut}").code == 0
    assert llm("train", f"resume={cut}", "trainer.max_steps=8").code == 0
    one, other = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, cut))
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name


def test_a_preferring_run_talks_too(llm, preferring, lines):
    lines("Ada has a hat. What?")
    result = llm("chat", f"ckpt={preferring}", "max_new_tokens=3")
    assert result.code == 0 and result.out.endswith("\n")


def test_another_template_is_asked_for_by_name(llm, files, tmp_path):
    options = ["data=chat", f"data.path={files[0]}", *MODEL, *SMALL, "trainer.max_steps=1", "template=plain"]
    assert llm("train", *options, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    config = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.ckpt").config
    assert "'User: '" in config["task"]["template"]
    refused = llm("train", *options, "task.template='{% for m in messages %}{{ m.content }}'")
    assert refused.code == 2 and "task.template, line 1" in refused.err
    short = llm("train", *options, "batch.seq_len=20")
    assert short.code == 2 and "batch.seq_len (20) must be above the" in short.err


def test_the_reference_is_not_said_to_be_left(llm, files, preferring):
    begun = llm("train", "data=chat", f"data.path={files[0]}", f"init={preferring}", *SMALL, "--dry-run")
    assert begun.code == 0 and "tensors" in begun.err and "reference.copies" not in begun.err


def test_samples_answer_what_the_user_asks_first():
    turns = (Turn("system", "be kind"), Turn("user", "who?"), Turn("assistant", "me"))
    for record in (Conversation(turns), Preference(turns[:2], "me", "you")):
        given = SimpleNamespace(record=type(record).__name__, examples=lambda split, record=record: [record])
        assert opening(given) == "who?"
