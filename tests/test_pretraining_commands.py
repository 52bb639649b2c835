"""permutation_lm and replaced_token through the commands: trained, resumed exactly, scored, asked; mistakes."""

from __future__ import annotations

import json

import pytest
import torch

from llmcli import checkpoint

RUNS = {
    "xlnet": ["model=xlnet", "task=permutation_lm", "task.k=4"],
    "electra": ["model=electra", "task=replaced_token", "task.generator_size=0.5", "model.d_embed=8"],
}


def overrides(small, name):
    return [*small, *RUNS[name], "model.n_heads=2", "optimizer=adam", "callbacks.samples=null"]


@pytest.fixture(params=sorted(RUNS))
def name(request):
    return request.param


def test_a_run_stopped_and_resumed_is_the_run_never_stopped(llm, small, name, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [*overrides(small, name), "model.dropout=0.1", "schedule=constant", "schedule.warmup=0"]
    trained = llm("train", *options, "--json", f"hydra.run.dir={whole}")
    assert trained.code == 0, trained.err
    assert llm("train", *options, "trainer.max_steps=7", f"hydra.run.dir={cut}").code == 0
    assert llm("train", f"resume={cut}", "trainer.max_steps=12").code == 0
    one, other = (checkpoint.read(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (whole, cut))
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
    scored = [json.loads(llm("eval", f"ckpt={whole}", "--json", *more).out) for more in ([], ["batch_size=3"])]
    figures = json.loads(trained.out)
    assert scored[0]["loss"] == pytest.approx(figures["val_loss"], rel=1e-5)
    assert scored[1]["loss"] == pytest.approx(scored[0]["loss"], rel=1e-5)  # targets and draws are those of the windows


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (["model=transformer", "task=permutation_lm"], "model=transformer has no two_streams", "model=xlnet"),
        (["model=gpt2", "task=replaced_token"], "model=gpt2 has no smaller", "model=bert or model=electra"),
        (["model=lstm", "task=replaced_token"], "is of kind 'recurrent'", "goes with model=bert or model=electra\n"),
        (["model=xlnet", "task=language_modeling"], "model=xlnet looks both ways", "task=permutation_lm"),
        (["model=xlnet", "task=permutation_lm", "task.k=1"], "task.k (1) must be at least 2", ""),
        (["model=electra", "task=replaced_token", "task.rate=0"], "task.rate (0) must be above 0", ""),
    ],
)
def test_mistakes(llm, small, changes, message, hint):
    options = [each for each in small if not each.startswith("model.")]
    refused = llm("train", *options, *changes, "hydra.run.dir=run")
    assert refused.code == 2
    assert message in refused.err and hint in refused.err
