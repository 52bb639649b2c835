"""Autoencoder and VAE through the commands: trained on lines, scored, resumed, asked for codes, and made to write."""

from __future__ import annotations

import io
import itertools
import json
import signal
import sys
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli import checkpoint
from llmcli.callbacks.steps import StopSignal

TINY = [
    "data=text", "data.document=line", "data.split=document", "data.val_fraction=0.15", "prepare.unit=line",
    "prepare.workers=1", "tokenizer=word", "batch.size=64", "batch.seq_len=12", "model.cell=gru",
    "model.d_model=32", "model.d_code=8",
    "optimizer=adam", "optimizer.lr=0.02", "schedule=constant", "schedule.warmup=0", "trainer.accelerator=cpu",
    "model.tie_embeddings=false", "callbacks.samples=null",
]  # fmt: skip


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """All lines of one to three of six words."""
    words = ("red", "blue", "old", "cat", "dog", "sees")
    found = [" ".join(each) for length in (1, 2, 3) for each in itertools.product(words, repeat=length)]
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    path.write_text("\n".join(found) + "\n", "utf-8")
    return path


def train(folder, lines, *options):
    from llmcli import cli

    assert cli.main(["train", *TINY, f"data.path={lines}", *options, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache, lines):
    """An autoencoder that writes most lines again, and a VAE that has hardly begun."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_CACHE", str(cache))
        patch.setenv("LLM_RUN_DIR", "")
        autoencoder = train(
            folder / "ae", lines, "model=autoencoder", "model.d_code=32", "model.dropout=0", "task.drop=0.02",
            "trainer.max_steps=180", "trainer.val_every=180",
        )  # fmt: skip
        vae = train(
            folder / "vae", lines, "model=vae", "task.free_bits=0.5", "trainer.max_steps=20", "trainer.val_every=20"
        )
    return {"autoencoder": autoencoder, "vae": vae}


@pytest.fixture
def nothing_piped(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8"))


def saved(folder):
    return checkpoint.load(folder / "checkpoints" / "last.ckpt").task


def told(result):
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_an_autoencoder_writes_texts_again(llm, runs):
    found = told(llm("eval", f"ckpt={runs['autoencoder']}", "bootstrap=50", "--json"))
    assert found["accuracy"] > 0.7 and found["exact"] > 0.2 and "kl" not in found and "iw_nll" not in found
    assert set(found["intervals"]) >= {"loss", "reconstruction_nll", "exact"}
    rows = [json.loads(line) for line in Path(found["predictions"]).read_text("utf-8").splitlines()]
    assert sum(row["text"] == row["reference"] == row["source"] for row in rows) / len(rows) == found["exact"]
    right = next(row["source"] for row in rows if row["right"])
    assert llm("generate", f"ckpt={runs['autoencoder']}", "--prompt", right).out == f"{right}\n"
    assert llmcli.load(runs["autoencoder"]).translate(right) == [right]


def test_a_vae_is_scored_by_its_bounds(llm, runs):
    found = told(llm("eval", f"ckpt={runs['vae']}", "samples=20", "bootstrap=50", "--json"))
    assert found["elbo"] == pytest.approx(-found["reconstruction_nll"] - found["kl"], abs=1e-4)
    assert found["iw_nll"] < -found["elbo"] and found["active_units"] in range(9)
    assert found["kl"] == pytest.approx(found["kl_per_token"] * found["reconstruction_nll"]
                                        / found["reconstruction_nll_per_token"], rel=1e-4)  # fmt: skip
    low, high = found["intervals"]["iw_nll"]
    assert low < found["iw_nll"] < high and found["iw_perplexity"] > 1
    more = told(llm("eval", f"ckpt={runs['vae']}", "samples=200", "bootstrap=0", "out=none", "--json"))
    assert more["iw_nll"] < found["iw_nll"]
    quick = told(llm("eval", f"ckpt={runs['vae']}", "samples=1", "bootstrap=0", "out=none", "--json"))
    assert "iw_nll" not in quick and quick["kl"] == pytest.approx(found["kl"], rel=1e-5)
    refused = llm("eval", f"ckpt={runs['vae']}", "samples=0")
    assert refused.code == 2 and "samples (0) must be at least 1" in refused.err


def test_texts_come_from_nothing_and_from_between_two(llm, runs, nothing_piped):
    vae = f"ckpt={runs['vae']}"
    drawn = told(llm("generate", vae, "num_samples=4", "max_new_tokens=6", "--json"))["results"]
    again = told(llm("generate", vae, "num_samples=2", "max_new_tokens=6", "--json"))["results"]
    assert [each["text"] for each in drawn[:2]] == [each["text"] for each in again]
    assert len(drawn) == 4 and {each["prompt"] for each in drawn} == {""}
    for decoding in ("sample", "beam"):
        assert len(llm("generate", vae, "num_samples=3", f"decoding={decoding}").out.splitlines()) == 3
    ends = ["--prompt", "red cat", "--prompt", "old dog sees"]
    way = llm("generate", vae, *ends, "interpolate=5").out.splitlines()
    assert len(way) == 5 and [way[0], way[-1]] == llm("generate", vae, *ends).out.splitlines()


def test_codes_through_predict(llm, runs):
    for name, keys in (("vae", ["text", "code", "log_variance"]), ("autoencoder", ["text", "code"])):
        result = llm("predict", f"ckpt={runs[name]}", "--text", "red cat", "--text", "old dog")
        found = [json.loads(line) for line in result.out.splitlines()]
        assert [list(each) for each in found] == [keys, keys]
        assert len(found[0]["code"]) == (8 if name == "vae" else 32) and found[0]["code"] != found[1]["code"]


def test_resume_goes_on_with_the_annealing(llm, lines, tmp_path, monkeypatch):
    """Stopped by a signal amid the rise, it ends with the weights of the run that never was."""
    options = [*TINY, f"data.path={lines}", "model=vae", "task.kl.end=0.8", "trainer.max_steps=8", "--json"]
    whole = told(llm("train", *options, f"hydra.run.dir={tmp_path / 'whole'}"))
    seen = StopSignal.on_train_batch_end

    def stop(self, trainer, *rest):
        self._received = signal.SIGTERM if trainer.global_step == 4 else None
        seen(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "on_train_batch_end", stop)
        with pytest.raises(SystemExit):
            llm("train", *options, f"hydra.run.dir={tmp_path / 'cut'}")
    resumed = told(llm("train", f"resume={tmp_path / 'cut'}", "--json"))
    assert resumed["val_loss"] == whole["val_loss"]
    theirs, ours = (saved(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_a_vae_begins_with_an_autoencoder(llm, lines, runs, tmp_path):
    options = [*TINY, f"data.path={lines}", "model=vae", f"init={runs['autoencoder']}", "trainer.max_steps=2"]
    begun = llm("train", *options, "model.d_code=32", f"hydra.run.dir={tmp_path / 'begun'}")
    assert begun.code == 0 and "model.log_variance" in begun.err
    tables = [saved(folder).model.encoder.input_embedding for folder in (tmp_path / "begun", runs["autoencoder"])]
    ours, theirs = (table.weight for table in tables)
    assert (ours - theirs).abs().max() < 0.1
    other = llm("train", *options, "model.d_code=8", f"hydra.run.dir={tmp_path / 'other'}")
    assert other.code == 0 and "other shapes" in other.err and "model.mean.weight (32, 32), here (8, 32)" in other.err


def test_labelled_texts_are_learned_without_their_labels(llm, tmp_path):
    path = tmp_path / "films.csv"
    rows = [f"a {word} film number {n},{word}" for n in range(40) for word in ("good", "bad")]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    options = [each for each in TINY if not each.startswith(("data", "prepare.unit"))]
    run = tmp_path / "run"
    trained = llm("train", *options, "data=labeled_text", f"data.path={path}", "data.val_fraction=0.2", "model=vae",
                  "trainer.max_steps=2", f"hydra.run.dir={run}")  # fmt: skip
    assert trained.code == 0, trained.err
    assert told(llm("eval", f"ckpt={run}", "samples=2", "bootstrap=0", "--json"))["kl"] >= 0


def test_what_cannot_be_done(llm, runs, trained, nothing_piped):
    vae, plain = f"ckpt={runs['vae']}", f"ckpt={runs['autoencoder']}"
    for arguments, message in (
        (["generate", vae, "--prompt", "red cat", "interpolate=7"], "goes from one text to another; there is 1"),
        (["generate", vae, "interpolate=7"], "there are 0"),
        (["generate", vae, "--prompt", "red", "--prompt", "old", "interpolate=1"], "(1) must be at least 2"),
        (["generate", vae, "--prompt", "red", "interpolate=far"], "interpolate: expected"),
        (["generate", vae, "--prompt", "red", "--prompt", ""], "text 2 is empty"),
        (["generate", vae, "num_samples=0"], "num_samples (0) must be at least 1"),
        (["predict", vae, "--text", ""], "text 1 is empty"),
        (["generate", plain], "writes texts again"),
        (["generate", f"ckpt={trained}", "--prompt", "the", "interpolate=3"], "LanguageModeling run, which has none"),
        (["train", *TINY, "data.path=x.txt", "model=vae", "batch=windows"], "batch=windows gives windows"),
        (["train", "model=lstm", "task=reconstruction"], "cannot be trained with task=recon"),
    ):  # fmt: skip
        refused = llm(*arguments)
        assert refused.code == 2 and message in refused.err, (arguments, refused.err)


def test_every_line_is_written_again_in_its_place(llm, runs, tmp_path):
    given = tmp_path / "given.txt"
    given.write_text("red cat\n\nold dog\n", encoding="utf-8")
    written = llm("generate", f"ckpt={runs['autoencoder']}", "--prompt-file", str(given), "decoding=greedy")
    assert written.code == 0 and written.out.split("\n")[1] == "" and written.out.count("\n") == 3
