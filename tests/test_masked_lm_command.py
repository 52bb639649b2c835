"""Masked language modelling through the commands: trained, scored, asked, resumed, and what it does not do."""

from __future__ import annotations

import json

import pytest
import torch

from llmcli import checkpoint

BERT = ["model=bert", "task=masked_lm", "model.n_heads=2", "optimizer=adam", "optimizer.lr=0.003"]


@pytest.fixture(scope="module")
def run(corpus, cache, small, tmp_path_factory):
    """Of filters over three words, which learn in no time what stands between two others."""
    from llmcli import cli

    folder = tmp_path_factory.mktemp("masked") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_CACHE", str(cache))
        patch.setenv("LLM_RUN_DIR", "")
        options = [*(each for each in small if not each.startswith("model.")), "tokenizer=word", "task=masked_lm"]
        model = ["model=textcnn", "model.d_embed=16", "model.widths=[3,5]", "model.n_filters=32", "model.dropout=0"]
        learnt = ["trainer.max_steps=150", "batch.size=16", "batch.seq_len=32", "task.rate=0.2", "trainer.val_every=50"]
        adam = ["optimizer=adam", "optimizer.lr=0.01", f"hydra.run.dir={folder}"]
        assert cli.main(["train", *options, *model, *learnt, *adam]) == 0
    return folder


def test_it_learns_and_validation_does_not_depend_on_the_batches(llm, run):
    figures = [json.loads(llm("eval", f"ckpt={run}", f"batch_size={size}", "--json").out) for size in (1, 8, 8)]
    assert figures[1]["loss"] == figures[2]["loss"] == pytest.approx(figures[0]["loss"], rel=1e-5)
    assert figures[0]["accuracy"] == figures[1]["accuracy"] > 0.5  # one word in four is "the"


def test_it_fills_what_is_left_out_and_generates_nothing(llm, run):
    answered = llm("predict", f"ckpt={run}", "--text", "the old <mask> sees a red [MASK].", "top=2", "--json")
    found = json.loads(answered.out)
    assert found["filled"] == "the old man sees a red ball."
    assert [token["token"] for token in found["tokens"][::2]] == ["man", "ball"] and len(found["tokens"]) == 4
    asked = llm("predict", f"ckpt={run}", "--text", "the old man")
    assert asked.code == 2 and "write <mask> where a token is to be found" in asked.err
    refused = llm("generate", f"ckpt={run}", "--prompt", "the old")
    assert refused.code == 2
    assert "MaskedLM run, which does not generate text" in refused.err
    assert f"llm predict ckpt={run} answers" in refused.err


def test_a_run_says_what_to_ask_next(llm, small, tmp_path):
    trained = llm("train", *small, *BERT, f"hydra.run.dir={tmp_path / 'run'}")
    assert trained.code == 0, trained.err
    [line] = [line for line in trained.err.splitlines() if "next" in line]
    assert "llm predict" in line and "<mask>" in line


def test_resumed_it_is_the_run_never_stopped(llm, small, tmp_path):
    options = [*small, *BERT, "task.unit=word", "schedule=constant", "schedule.warmup=0"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert llm("train", *options, "trainer.max_steps=12", f"hydra.run.dir={whole}").code == 0
    assert llm("train", *options, "trainer.max_steps=7", f"hydra.run.dir={cut}").code == 0
    assert llm("train", f"resume={cut}", "trainer.max_steps=12").code == 0
    one, other = (checkpoint.read(folder / "checkpoints" / "last.ckpt")["state_dict"] for folder in (whole, cut))
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (
            ["model=bert", "task=language_modeling"],
            "model=bert looks both ways and cannot be trained with task=language_modeling",
            "it goes with task=classification or task=masked_lm or task=multiple_choice",
        ),
        (["model=bert", "task=masked_lm", "task.unit=line"], "task.unit", "token"),
    ],
)
def test_what_does_not_go_together(llm, small, changes, message, hint):
    refused = llm("train", *small, *changes)
    assert refused.code == 2 and message in refused.err and hint in refused.err
    assert "permutation_lm" not in refused.err
