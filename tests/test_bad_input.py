"""What a user may get wrong: one or two lines that name the value, exit code 2, and nothing lost or left behind."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import pytest
import torch

TINY = ["model=transformer", "model.n_heads=2", "model.ngram_rows=[64]"]
SIZES = {  # of each family: an override that makes the smallest of its kind
    "transformer": ["model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.ngram_rows=[64]"],
    "gpt2": ["model.d_model=16", "model.n_layers=1", "model.n_heads=2"],
    "mlp": ["model.d_embed=8", "model.d_hidden=16"],
    "rnn": ["model.d_model=16", "model.d_hidden=16", "model.n_layers=1"],
    "lstm": ["model.d_model=16", "model.d_hidden=16", "model.n_layers=1"],
    "gru": ["model.d_model=16", "model.d_hidden=16", "model.n_layers=1"],
}


def refused(result, *said: str, code: int = 2) -> None:
    """The exit code and a message of an error line and at most one way out, with everything in `said`."""
    assert result.code == code, result.err
    lines = [line for line in result.err.splitlines() if line.strip()]
    start = next(i for i, line in enumerate(lines) if line.startswith("error: "))
    message = lines[start:]
    assert len(message) <= 2, result.err
    assert "Traceback" not in result.err and "this is a bug" not in result.err
    assert not re.search(r"lightning|hydra\.errors|omegaconf|See https?://", "\n".join(message), re.IGNORECASE)
    assert result.out == ""
    for words in said:
        assert words in "\n".join(message)


@pytest.fixture
def train(llm, small):
    """`llm train` on the small run with more overrides; whatever is refused must leave no run folder."""

    def call(*more: str, tiny: list[str] = TINY):
        base = [each for each in small if tiny is TINY or not each.startswith("model.")]
        result = llm("train", *base, *tiny, *more)
        if result.code == 2:
            assert not Path("runs").exists()
        return result

    return call


# -- data ----------------------------------------------------------------------------------------------------------


def test_a_missing_file_and_a_missing_path(train, llm, tmp_path):
    refused(train("data.path=nowhere.txt"), "data.path: there is no file or folder nowhere.txt", str(tmp_path))
    refused(llm("train", "data=text"), "data=text needs to know which text", "data.path=FILE")


def test_an_empty_corpus(train, tmp_path):
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    refused(train("data.path=empty.txt"), "there is no text in empty.txt: every file is empty")


def test_too_few_documents_to_deal_out(train, tmp_path):
    (tmp_path / "one.txt").write_text("a single line\n", encoding="utf-8")
    refused(train("data.path=one.txt"), "no document fell into the", "too few", "data.split=position")


def test_a_corpus_shorter_than_the_context(train, tmp_path):
    (tmp_path / "short.txt").write_text("0123456789" * 5, encoding="utf-8")
    result = train("data.path=short.txt", "data.document=file")
    refused(result, "46 tokens", "fewer than batch.size (4)", "batch.size=2")
    result = train("data.path=short.txt", "data.document=file", "batch.seq_len=64")
    refused(result, "46 tokens, fewer than the 65 of one window", "batch.seq_len=11 batch.size=4")


def test_invalid_utf8_names_the_file_and_the_offset(train, tmp_path):
    lines = [f"line number {i}\n".encode() for i in range(300)]
    offset = sum(map(len, lines[:200])) + 5
    lines[200] = b"line \xff" + lines[200][6:]
    (tmp_path / "bad.txt").write_bytes(b"".join(lines))
    refused(train("data.path=bad.txt"), "bad.txt is not UTF-8", "0xff", f"offset {offset:,}", "data.errors=replace")
    assert train("data.path=bad.txt", "data.errors=replace", "--dry-run").code == 0


def test_no_validation_split(train):
    refused(train("data.val_fraction=0"), "no val split", "it has: train", "data.val_fraction=0.1")


@pytest.mark.parametrize("value", ["1.2", "-0.1", "1"])
def test_impossible_fractions(train, value):
    refused(train(f"data.val_fraction={value}"), f"data.val_fraction ({value})", "together less than 1")


def test_a_cleaning_step_that_is_none(train):
    refused(train("clean=[lowrcase]"), 'there is no clean "lowrcase". Did you mean clean=lowercase?', "lowercase, ")
    refused(train("clean.lowercase=yes"), "clean.lowercase")


def test_an_encoding_that_does_not_exist(train):
    refused(train("data.encoding=utf-99"), "no encoding called utf-99")


# -- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["transformer", "gpt2"])
def test_a_width_that_the_heads_do_not_divide(train, family):
    result = train(f"model={family}", "model.d_model=30", "model.n_heads=4", tiny=[])
    refused(result, "d_model (30) must be divisible by", "n_heads (4)")


def test_windows_longer_than_the_model(train, tmp_path):
    result = train("model.max_seq_len=8", "batch.seq_len=16")
    refused(result, "batch.seq_len (16) is above model.max_seq_len (8)", "batch.seq_len=8")
    assert not list(tmp_path.rglob("config.yaml"))  # before there is a run folder


@pytest.mark.parametrize("value", [-4, 0])
@pytest.mark.parametrize(
    ("family", "key"),
    [
        *((family, "d_model") for family in ("transformer", "gpt2", "rnn", "lstm", "gru")),
        *((family, "n_layers") for family in ("transformer", "gpt2", "rnn", "lstm", "gru")),
        *((family, "d_hidden") for family in ("mlp", "rnn", "lstm", "gru")),
        ("transformer", "n_heads"), ("transformer", "n_kv_heads"), ("transformer", "d_ff"), ("gpt2", "n_heads"),
        ("mlp", "d_embed"), ("mlp", "window"), ("ngram", "order"),
    ],
)  # fmt: skip
def test_sizes_below_one(train, family, key, value):
    more = ["task=counting"] if family == "ngram" else []
    refused(train(f"model={family}", *more, f"model.{key}={value}", tiny=[]), f"{key} ({value}) must be at least 1")


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("value", ["-0.1", "1.0"])
def test_impossible_dropout(train, family, value):
    key = "dropout_output" if family in ("rnn", "lstm", "gru") else "dropout"
    refused(train(f"model={family}", *SIZES[family], f"model.{key}={value}", tiny=[]), f"{key} ({value}) must be")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("batch.size=0", "batch.size (0) must be at least 1"),
        ("batch.seq_len=-1", "(-1) must be at least 1"),
        ("batch.num_workers=-1", "batch.num_workers (-1) must be at least 0"),
        ("batch.size=100000", "fewer than batch.size (100,000)"),
        ("batch.seq_len=100000", "fewer than the 100,001 of one window"),
        ("model.rope_theta=-1", "rope_theta (-1) must be above 0"),
        ("model.logit_softcap=-1", "softcap (-1) must be above 0"),
        ("model.ngram_rows=[-1]", "ngram_rows (-1) must be at least 1"),
        ("task.label_smoothing=1", "task.label_smoothing must be in [0, 1), not 1"),
        ("optimizer.lr=-1", "lr (-1) must be at least 0"),
        ("optimizer.weight_decay=-1", "weight_decay (-1) must be at least 0"),
        ("optimizer.momentum=1", "momentum (1) must be at least 0 and below 1"),
        ("schedule.warmup=-1", "schedule.warmup (-1) must be 0 or more"),
        ("schedule.final=-1", "schedule.final (-1) must be at least 0"),
        ("trainer.accumulate=0", "trainer.accumulate must be at least 1, not 0"),
        ("trainer.val_every=0", "trainer.val_every must be at least 1, not 0"),
        ("trainer.clip_norm=-1", "trainer.clip_norm must be positive, not -1"),
        ("callbacks.checkpoints.every=abc", "callbacks.checkpoints.every: 'abc' is no time"),
        ("callbacks.checkpoints.keep=0", "callbacks.checkpoints.keep must be at least 1, not 0"),
        ("callbacks.checkpoints=null", "a run that saves nothing is lost"),
        ("callbacks.samples.max_new_tokens=0", "max_new_tokens must be at least 1, not 0"),
        ("decoding.temperature=-1", "temperature (-1) must be at least 0"),
        (f"seed={2**63}", f"seed ({2**63}) must fit in 64 bits"),
    ],
)
def test_values_out_of_range(train, override, said):
    refused(train(override), said)


@pytest.mark.parametrize(
    ("group", "override", "said"),
    [
        ("optimizer=adamw", "optimizer.eps=-1", "optimizer: Invalid epsilon value: -1"),
        ("optimizer=sgd", "optimizer.momentum=-1", "optimizer: Invalid momentum value: -1"),
        ("schedule=wsd", "schedule.decay=3", "schedule.decay (3) must be above 0 and at most 1"),
        ("schedule=slanted_triangular", "schedule.ratio=0", "schedule.ratio (0) must be at least 1"),
        ("schedule=inverse_sqrt", "schedule.warmup=0", "schedule.warmup (0) must be above 0"),
        ("callbacks=ema", "callbacks.ema.decay=1", "callbacks.ema.decay must be in [0, 1), not 1"),
        ("callbacks=early_stopping", "callbacks.early_stopping.patience=0", "must be at least 1, not 0"),
        ("tokenizer=bpe", "tokenizer.vocab_size=3", "vocab_size (3) must be above 272"),
        ("tokenizer=word", "tokenizer.vocab_size=-3", "vocab_size (-3) must be above the 16 reserved ids"),
    ],
)
def test_values_out_of_range_in_other_options(train, group, override, said):
    refused(train(group, override), said)


# -- budgets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.default_steps=0", "trainer.default_steps must be at least 1, not 0"),
        ("trainer.max_steps=0", "trainer.max_steps must be at least 1, not 0"),
        ("trainer.max_tokens=-5", "trainer.max_tokens must be at least 1, not -5"),
        ("trainer.max_time=soon", "trainer.max_time: 'soon' is no time"),
        ("trainer.max_time=10x", "trainer.max_time: '10x' is no time"),
        ("trainer.max_time=1h30", "trainer.max_time: '1h30' is no time"),
        ("trainer.max_time=0", "trainer.max_time must be more than nothing, not 0"),
        ("trainer.max_time=-5", "trainer.max_time must be more than nothing, not -5"),
    ],
)
def test_budgets(train, override, said):
    refused(train(override), said)


# -- the machine ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("devices", ["1", "4"])
def test_a_gpu_that_is_not_there(train, devices):
    result = train("trainer.accelerator=gpu", f"trainer.devices={devices}")
    refused(result, f"trainer.accelerator=gpu trainer.devices={devices}", "0 CUDA devices", "trainer.accelerator=auto")


def test_more_processes_than_processors(train):
    many = 64 * (os.cpu_count() or 1)
    refused(train(f"trainer.devices={many}"), f"{many} are more than there are", f"{os.cpu_count()} CPU thread")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.devices=0", "at least 1 device is needed"),
        ("trainer.accelerator=abacus", "there is no accelerator 'abacus'"),
        ("trainer.strategy=dpp", "trainer.strategy: there is no 'dpp'. Did you mean ddp?"),
        ("trainer.precision=fp8", "trainer.precision: expected one of auto, 32-true"),
        ("trainer.precision=16-mixed", "trainer.precision=16-mixed needs a GPU"),
    ],
)
def test_what_this_machine_cannot_do(train, override, said):
    refused(train(override), said)


# -- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], 'there is no command "trian". Did you mean llm train?'),
        (["train", "model=gtp2"], 'there is no model "gtp2". Did you mean model=gpt2?'),
        (["train", "modle=gpt2"], "Did you mean model=gpt2?"),
        (["train", "model.d_modle=3"], "Did you mean model.d_model=3?"),
        (["train", "--max-steps", "3"], "Did you mean trainer.max_steps=3?"),
        (["train", "--jsno"], "Did you mean --json?"),
        (["train", "-x"], "there is no flag -x"),
        (["train", "data=nosuch"], 'there is no data "nosuch"'),
        (["train", "experiment=nothing"], 'there is no experiment "nothing"'),
        (["train", "callbacks.early_stopping.patience=1"], "it is a key of callbacks=early_stopping"),
        (["train", "clean.urls.replacement=x"], "it is a key of clean=[urls]"),
        (["prepare", "data.path=x"], " published sets"),
        (["train", "augment=[typos]", "augment.random_swap.rate=0.2"], "it is a key of augment=[random_swap]"),
        (["train", "gpt2"], '"gpt2" is not an override'),
        (["eval", "splt=val"], "Did you mean split=val?"),
        (["generate", "decoding.temprature=1"], "Did you mean decoding.temperature=1?"),
        (["generate", "decoding=greedy", "decoding.top_p=0.5"], "decoding=sample"),
    ],
)
def test_unknown_words(llm, words, said):
    refused(llm(*words), said)


@pytest.mark.parametrize("group", ["model", "data", "optimizer", "callbacks"])
def test_a_group_that_cannot_be_left_out(llm, group):
    refused(llm("train", f"{group}=null"), f"{group}=null: llm train needs one", f"{group}: ")


def test_a_group_that_can_be_left_out(train):
    assert train("experiment=null", "--dry-run").code == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.max_steps=abc", "trainer.max_steps: expected int or null, got 'abc'"),
        ("model.d_model=1.5", "model.d_model: expected int, got 1.5"),
        ("model.ngram_rows=5", "model.ngram_rows: expected list[int], got 5"),
        ("optimizer.betas=[1,2,3]", "optimizer.betas: expected tuple[float, float], got [1, 2, 3]"),
        ("seed=abc", "seed: expected int, got 'abc'"),
        ("data.eos=maybe", "data.eos: expected bool, got 'maybe'"),
    ],
)
def test_wrong_types(train, override, said):
    refused(train(override), said)


# -- what does not go together -------------------------------------------------------------------------------------


def test_a_model_that_the_task_cannot_train(train):
    result = train("model=ngram", "task=language_modeling", tiny=[])
    refused(result, "model=ngram", "task=language_modeling", "attention, recurrent, window")


@pytest.mark.parametrize("key", ["task.causal", "model.causal"])
def test_a_model_that_sees_the_future(train, key):
    refused(train(f"{key}=false"), "needs task.causal=true")


# -- run folders ---------------------------------------------------------------------------------------------------


def test_a_run_folder_that_cannot_be_made(train, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for folder in ("file", "file/run"):
        refused(train(f"hydra.run.dir={folder}"), f"cannot write the run folder {folder}: ", "hydra.run.dir=PATH")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_run_folder_without_permission(train, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(train("hydra.run.dir=locked/run"), "locked/run: Permission denied")


def test_a_folder_that_holds_a_run_is_not_overwritten(train, trained):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    refused(train(f"hydra.run.dir={trained}"), f"{trained} already holds a run", f"llm train resume={trained}")
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_a_refused_run_does_not_take_its_folder(train, tmp_path):
    refused(train("hydra.run.dir=mine", "callbacks.checkpoints.keep=0"), "keep must be at least 1")
    assert not (tmp_path / "mine").exists()


def test_resume_of_what_is_no_run(llm, tmp_path, corpus):
    refused(llm("train", "resume=nowhere"), "there is no run or checkpoint nowhere")
    refused(llm("train", "resume=latest"), f"there is no run with a checkpoint in {tmp_path / 'runs'}")
    (tmp_path / "folder").mkdir()
    refused(llm("train", "resume=folder"), "folder is not a run folder")
    refused(llm("train", f"resume={corpus}"), f"cannot read {corpus}")


def test_resume_changes_neither_the_model_nor_the_data(llm, trained):
    refused(llm("train", f"resume={trained}", "model=lstm"), "model cannot change", "trainer.max_steps")
    refused(llm("train", f"resume={trained}", "batch.size=1"), "batch.size cannot change")


# -- eval ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("split=test", "there is no split 'test'"),
        ("stride=0", "stride (0) must be from 1 to batch.seq_len (16)"),
        ("stride=17", "stride (17) must be from 1 to batch.seq_len (16)"),
        ("stride=abc", "stride: expected int or null, got 'abc'"),
        ("batch_size=0", "batch_size (0) must be at least 1"),
        ("batch_size=-1", "batch_size (-1) must be at least 1"),
        ("batch_size=x", "batch_size: expected int or null, got 'x'"),
        ("accelerator=abacus", "accelerator=abacus: there is no accelerator 'abacus'"),
        ("data=nothing", 'there is no data "nothing"'),
        ("data=text", "data=text needs to know which text"),
        ("model=lstm", "eval uses the run's own model"),
        ("tokenizer=char", "eval uses the run's own tokenizer"),
    ],
)
def test_eval(llm, trained, override, said):
    refused(llm("eval", f"ckpt={trained}", override), said)


def test_eval_of_an_empty_text(llm, trained, tmp_path):
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    refused(llm("eval", f"ckpt={trained}", "data=text", "data.path=empty.txt"), "there is no text")


# -- generate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("max_new_tokens=0", "max_new_tokens (0) must be at least 1"),
        ("max_new_tokens=-2", "max_new_tokens (-2) must be at least 1"),
        ("num_samples=0", "num_samples (0) must be at least 1"),
        ("decoding.temperature=-1", "temperature (-1) must be at least 0"),
        ("decoding.top_p=1.5", "top_p (1.5) must be above 0 and at most 1"),
        ("decoding.top_k=0", "top_k (0) must be at least 1"),
        ("decoding.min_p=2", "min_p (2) must be between 0 and 1"),
        ("decoding.penalties.repetition=0", "penalties.repetition (0) must be above 0"),
        ("unknown=maybe", "unknown must be error or replace, not 'maybe'"),
        (f"seed={10**20}", "must fit in 64 bits"),
        ("--stop=", "a stop string is empty"),
        ("model=lstm", "generate uses the run's own model"),
    ],
)
def test_generate(llm, trained, override, said):
    refused(llm("generate", f"ckpt={trained}", "--prompt", "the cat", override), said)


def test_a_prompt_with_characters_that_the_tokenizer_lacks(llm, small, tmp_path):
    run = tmp_path / "chars"
    assert llm("train", *small, *TINY, "tokenizer=char", f"hydra.run.dir={run}").code == 0
    arguments = ["generate", f"ckpt={run}", "--prompt", "the 猫 sees Ω", "max_new_tokens=2"]
    refused(llm(*arguments), "'猫' at 4", "'Ω' at 11", "unknown=replace")
    assert llm(*arguments, "unknown=replace").out.startswith("the 猫 sees Ω")


def test_prompt_files(llm, trained, tmp_path):
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    (tmp_path / "lines.txt").write_text("\n\r\n", encoding="utf-8")
    (tmp_path / "bytes.txt").write_bytes(b"ok\n\xff\xfe")
    generate = ["generate", f"ckpt={trained}", "--prompt-file"]
    refused(llm(*generate, "nowhere.txt"), "--prompt-file nowhere.txt: No such file or directory")
    refused(llm(*generate, "."), "--prompt-file .: Is a directory")
    refused(llm(*generate, "empty.txt"), "--prompt-file empty.txt holds no prompt")
    refused(llm(*generate, "lines.txt"), "holds no prompt")
    refused(llm(*generate, "bytes.txt"), "--prompt-file bytes.txt is not UTF-8: byte 0xff at offset 3")
    refused(llm("generate", "--prompt"), "--prompt needs a value")


def test_standard_input_that_is_not_utf8(llm, trained, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
    refused(llm("generate", f"ckpt={trained}"), "standard input is not UTF-8: byte 0xe9 at offset 3")


# -- what fails through no fault of the input ----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(train, tmp_path, monkeypatch):
    from llmcli import checkpoint
    from llmcli.tasks.language_modeling import LanguageModeling

    step = LanguageModeling._step

    def diverges(self, batch, stage):
        result = step(self, batch, stage)
        if stage == "train" and self.trainer.global_step == 7:
            result.loss.data.fill_(float("nan"))
        return result

    monkeypatch.setattr(LanguageModeling, "_step", diverges)
    result = train("hydra.run.dir=run")
    refused(result, "the loss became nan at step 7", "batch 7 of epoch 0", "optimizer.lr", code=1)
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "best.ckpt").content["global_step"] == 5
