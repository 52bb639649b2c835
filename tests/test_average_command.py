"""llm average: exactly the mean of the last checkpoints, whole, and what cannot be averaged or gone on from."""

from __future__ import annotations

import json

import pytest
import torch

from llmcli import averaging, checkpoint
from llmcli.errors import CheckpointError

SETTINGS = ["model=gpt2", "model.n_heads=2", "trainer.max_steps=5", "callbacks.checkpoints.every=0.000001"]


@pytest.fixture
def run(llm, small, tmp_path):
    folder = tmp_path / "run"
    done = llm("train", *small, *SETTINGS, "callbacks.checkpoints.keep=3", f"hydra.run.dir={folder}")
    assert done.code == 0, done.err
    return folder


def test_the_mean_of_the_last_checkpoints(llm, run):
    told = json.loads(llm("average", f"ckpt={run}", "last=3", "--json").out)
    path = run / "checkpoints" / "average.ckpt"
    assert told == {"path": str(path), "steps": [3, 4, 5]}
    files = sorted(run.glob("checkpoints/step-*.ckpt"))
    states = [checkpoint.read(file)["state_dict"] for file in files]
    found = checkpoint.read(path)
    assert len(states) == 3 and found["state_dict"].keys() == states[0].keys()
    for name, value in found["state_dict"].items():
        mean = torch.stack([state[name].double() for state in states]).sum(0) / 3
        assert value.dtype == states[0][name].dtype and torch.equal(value, mean.to(value.dtype))
    assert any(not torch.equal(value, states[-1][name]) for name, value in found["state_dict"].items())
    assert found["llm"]["config"]["averaged"] == {"steps": [3, 4, 5]}
    assert checkpoint.read(files[-1])["llm"]["config"] | {"averaged": {"steps": [3, 4, 5]}} == found["llm"]["config"]
    scored = json.loads(llm("eval", f"ckpt={path}", "--json").out)
    assert scored["ckpt"] == str(path) and scored["loss"] > 0
    two = llm("average", f"ckpt={run}", "last=2", f"to={run / 'two.ckpt'}")
    assert two.code == 0 and "the mean of steps 4, 5" in two.err
    again = llm("train", f"resume={path}")
    assert again.code == 2 and "holds an average of weights" in again.err and f"init={path}" in again.err
    more = llm("average", f"ckpt={run}", "last=4")
    assert more.code == 2 and f"last=4: {run} has 3 checkpoints step-N.ckpt" in more.err
    assert "callbacks.checkpoints.keep=4" in more.err
    assert "must be at least 2" in llm("average", f"ckpt={run}", "last=1").err


def test_nothing_that_is_there_is_written_over(llm, run):
    best = run / "checkpoints" / "best.ckpt"
    before = best.read_bytes()
    refused = llm("average", f"ckpt={run}", "last=2", f"to={best}")
    assert refused.code == 2 and "is there already" in refused.err and best.read_bytes() == before
    refused = llm("average", f"ckpt={run}", "last=2", f"to={run}")
    assert refused.code == 2 and f"to={run / 'average.ckpt'} names a file in it" in refused.err


def test_weights_of_another_model_have_no_mean(run, tmp_path):
    [*_, last] = sorted(run.glob("checkpoints/step-*.ckpt"))
    content = checkpoint.read(last)
    content["state_dict"] = {name: value for name, value in content["state_dict"].items() if "bias" not in name}
    checkpoint.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="holds other weights than"):
        averaging.average([last, tmp_path / "other.ckpt"])
