"""The finetune group in training: what is frozen stays bit for bit, layers begin in turn, resuming changes nothing."""

from __future__ import annotations

import random
import sys

import pytest
import torch

from llmcli import checkpoint
from llmcli.callbacks.unfreezing import Unfreezing
from llmcli.errors import InputError
from llmcli.finetuning import FineTuning
from llmcli.optim.layers import depths

RECORDER = """
import pytorch_lightning as pl

EPOCHS = []  # of each epoch the names of the parameters that it changed

class Recorder(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        self.before = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_train_epoch_end(self, trainer, pl_module):
        EPOCHS.append({name for name, p in pl_module.named_parameters() if not p.equal(self.before[name])})
"""


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Drawing them takes longer than these runs."""
    monkeypatch.setattr("llmcli.results.draw", lambda *told, **named: None)


@pytest.fixture
def reviews(tmp_path):
    draw = random.Random(0)
    words = {"good": ("fine", "great", "lovely"), "bad": ("dull", "poor", "awful")}
    rows = [f"number {i} is {draw.choice(words[label])},{label}" for i in range(24) for label in words]
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return [
        "data=labeled_text", f"data.path={path}", "data.val_fraction=0.2", "tokenizer=word", "batch.size=8",
        "batch.seq_len=8", "model=gpt2", "model.d_model=8", "model.n_heads=2", "model.n_layers=2",
        "optimizer=adamw", "optimizer.lr=0.01", "schedule=constant", "schedule.warmup=0", "~callbacks.samples",
        "trainer.accelerator=cpu", "trainer.precision=32-true",
    ]  # fmt: skip


def weights(folder, name="last"):
    return checkpoint.read(folder / "checkpoints" / f"{name}.ckpt")


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("more", [["callbacks=ema", "~callbacks.samples"], ["optimizer=muon"]])
def test_what_is_frozen_stays_bit_for_bit(llm, reviews, tmp_path, more):
    """With an average of the weights and clipping too; the rest learns."""
    options = [each for each in reviews if not (more and each.startswith("~"))]
    options = [each for each in options if "optimizer=muon" not in more or not each.startswith("optimizer")]
    still, run = tmp_path / "still", tmp_path / "run"
    froze = "finetune.freeze=[model.input_embedding*,model.blocks.0.*]"
    common = [*options, *more, froze, "trainer.clip_norm=0.1"]
    assert llm("train", *common, "trainer.max_steps=1", "optimizer.lr=0", f"hydra.run.dir={still}").code == 0
    done = llm("train", *common, "trainer.max_steps=8", f"hydra.run.dir={run}")
    assert done.code == 0 and "parameters frozen" in done.err, done.err
    first, last = (weights(folder)["state_dict"] for folder in (still, run))
    for name, value in first.items():
        frozen = name.startswith(("model.input_embedding", "model.blocks.0."))
        assert torch.equal(value, last[name]) == frozen, name


def test_the_head_alone(llm, reviews, tmp_path):
    run = tmp_path / "run"
    assert llm("train", *reviews, "finetune=head_only", "trainer.max_steps=4", f"hydra.run.dir={run}").code == 0
    saved = weights(run)
    moments = saved["optimizer_states"][0]["state"]
    assert len(moments) == 2  # the optimizer knows of the head's weight and bias and of nothing else
    loaded = checkpoint.load(run / "checkpoints" / "last.ckpt")
    assert saved["llm"]["config"]["finetune"]["freeze"] == ["model.*"]
    assert all(parameter.requires_grad for parameter in loaded.task.parameters())  # frozen for that run alone


def test_at_epoch_k_exactly_the_last_k_plus_1_layers_learn(llm, reviews, tmp_path, monkeypatch):
    (tmp_path / "recorder.py").write_text(RECORDER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LLM_TRUST", "recorder")
    run = tmp_path / "run"
    told = ["finetune=gradual", "trainer.max_epochs=5", "+callbacks.record._target_=recorder.Recorder"]
    done = llm("train", *reviews, *told, f"hydra.run.dir={run}")
    assert done.code == 0, done.err
    assert "one more of 4 layers learns each epoch" in done.err
    epochs = sys.modules.pop("recorder").EPOCHS
    task = checkpoint.load(run / "checkpoints" / "last.ckpt").task
    depth_of = depths(task)
    names = {name: depth_of[parameter] for name, parameter in task.named_parameters()}
    assert len(epochs) == 5
    for epoch, changed in enumerate(epochs):
        assert {names[name] for name in changed} == set(range(max(0, 3 - epoch), 4)), epoch


@pytest.mark.parametrize("unfreeze", ["1", "0.6"])
def test_resumed_in_the_middle_it_is_the_same_run(llm, reviews, tmp_path, unfreeze):
    """Ten steps at five an epoch, stopped after three: the second layer has not begun yet, or just has."""
    common = [*reviews, "finetune=ulmfit", "schedule=constant", f"finetune.unfreeze_every={unfreeze}"]
    common += ["batch.size=8", "trainer.max_steps=12", "model.dropout=0.1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert llm("train", *common, f"hydra.run.dir={whole}").code == 0
    stop = ["+callbacks.stop._target_=stopper.Stop"]
    (tmp_path / "stopper.py").write_text(
        "import os, signal\nimport pytorch_lightning as pl\n\n"
        "class Stop(pl.Callback):\n"
        "    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):\n"
        "        if trainer.global_step == 3:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        patch.setenv("LLM_TRUST", "stopper")
        with pytest.raises(SystemExit):
            llm("train", *common, *stop, f"hydra.run.dir={cut}")
        assert weights(cut)["global_step"] == 3
        assert llm("train", f"resume={cut}").code == 0
    one, other = weights(whole), weights(cut)
    assert one["global_step"] == other["global_step"] == 12
    assert_equal(one["state_dict"], other["state_dict"])
    for a, b in zip(
        one["optimizer_states"][0]["param_groups"], other["optimizer_states"][0]["param_groups"], strict=True
    ):
        assert a == b
    moments = [each["optimizer_states"][0]["state"] for each in (one, other)]
    assert moments[0].keys() == moments[1].keys()
    for number, state in moments[0].items():
        assert_equal(state, moments[1][number])


def test_a_share_of_the_budget_is_dealt_evenly():
    opening = Unfreezing(every=0.5)
    opening._layers = [[], [], [], [], []]
    assert [opening.learning(7, progress) for progress in (0.0, 0.12, 0.13, 0.26, 0.38, 0.49, 0.5, 1.0)] == [
        1, 1, 2, 3, 4, 4, 5, 5,
    ]  # fmt: skip
    slow = Unfreezing(every=2)
    slow._layers = [[], [], []]
    assert [slow.learning(epoch, 0.9) for epoch in range(6)] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["finetune.freeze=[model.blocks.7.*]"], "no parameter's name is model.blocks.7.*"),
        (["finetune.layer_decay=0"], "finetune.layer_decay (0) must be above 0 and at most 1"),
        (["finetune.layer_decay=1.5"], "finetune.layer_decay (1.5) must be above 0 and at most 1"),
        (["finetune.unfreeze_every=-1"], "finetune.unfreeze_every (-1) must be above 0"),
        (["finetune=headonly"], 'there is no finetune "headonly". Did you mean finetune=head_only?'),
        (["finetune.freeze=model"], "finetune.freeze: expected list[str], got 'model'"),
    ],
)
def test_mistakes_are_told_before_there_is_a_run(llm, reviews, tmp_path, changes, message):
    refused = llm("train", *reviews, *changes, "hydra.run.dir=run")
    assert refused.code == 2 and message in refused.err, refused.err
    assert not (tmp_path / "run").exists()


def test_gradual_unfreezing_is_for_one_device():
    task = torch.nn.Module()
    task.model = torch.nn.Linear(2, 2)
    task.model.parameter_depths = lambda: {"weight": 0, "bias": 0}
    with pytest.raises(InputError, match="works on one device, and these are 2"):
        FineTuning(freeze=[], layer_decay=1.0, unfreeze_every=1).apply(task, ranks=2)
