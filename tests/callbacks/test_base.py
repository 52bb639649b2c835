"""Callbacks find their place and their run by what they say of themselves, whoever wrote them."""

from __future__ import annotations

import json
import math
import sys

import pytest
import pytorch_lightning as pl
import torch

import llmcli
from llmcli import checkpoint, files, results
from llmcli.callbacks import samples
from llmcli.callbacks.base import Callback, Order, in_order
from llmcli.callbacks.early_stopping import EarlyStopping
from llmcli.callbacks.history import read_rows


class Plain(pl.Callback):
    pass


def test_order_by_place_and_then_as_given():
    def at(place: Order) -> Callback:
        return type("At", (Callback,), {"order": place})()

    save, first, plain, second, seed = at(Order.SAVE), at(Order.ACT), Plain(), at(Order.ACT), at(Order.SEED)
    assert in_order([save, first, plain, second, seed]) == [seed, first, plain, second, save]


# A callback of one's own that needs the run's folder and its figures, and ends the run.
OWN = """
from llmcli.callbacks.base import Callback, Order

class EndAt(Callback):
    order = Order.STOP

    def __init__(self, *, step: int) -> None:
        self._step = step

    def attach(self, context):
        self._context = context

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self._step:
            (self._context.folder / "own.txt").write_text(str(self._context.history.now.loss is not None))
            trainer.should_stop = True
"""


def test_a_callback_of_ones_own_gets_its_run_and_ends_it(llm, small, tmp_path, monkeypatch):
    (tmp_path / "own_callback.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = ["+callbacks.end._target_=own_callback.EndAt", "+callbacks.end.step=3"]
    assert llm("train", *small, *own, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    assert (tmp_path / "run" / "own.txt").read_text() == "True"
    assert checkpoint.read(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 3


def test_samples_are_drawn_with_the_average_that_is_saved(llm, small, tmp_path, monkeypatch):
    seen: list[dict[str, torch.Tensor]] = []
    drawn = samples.generate

    def generate(model, *arguments, **settings):
        assert not model.training
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return drawn(model, *arguments, **settings)

    monkeypatch.setattr(samples, "generate", generate)
    assert llm("train", *small, "callbacks=ema", f"hydra.run.dir={tmp_path / 'run'}").code == 0
    content = checkpoint.read(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(seen[-1][name], value) for name, value in content["state_dict"].items())
    current = content["current_model_state"]
    assert not all(torch.equal(seen[-1][name], value) for name, value in current.items())


# -- figures that are not finite --------------------------------------------------------------------------------------


class _Task:
    monitor, higher_is_better = "val_loss", False


class _Trainer:
    class state:  # noqa: N801
        fn = "fit"

    def __init__(self) -> None:
        self.should_stop, self.callback_metrics = False, {}


@pytest.mark.parametrize("higher_is_better", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_early_stopping_takes_no_infinite_value_for_the_best(bad, higher_is_better):
    task, trainer = _Task(), _Trainer()
    task.higher_is_better = higher_is_better
    stopping = EarlyStopping(patience=2, min_delta=0.0)
    for value, stopped in [(bad, False), (3.0, False), (bad, False), (3.0, True)]:
        trainer.callback_metrics["val_loss"] = torch.tensor(value)
        stopping.on_validation_end(trainer, task)
        assert trainer.should_stop is stopped
    assert stopping.state_dict()["best"] == 3.0


def test_a_validation_that_is_not_finite_is_never_the_best_and_is_said(llm, small, tmp_path, monkeypatch):
    from llmcli.metrics.text import Loss

    computed, calls = Loss.compute, []

    def compute(self):
        calls.append(None)
        return math.nan if len(calls) == 1 else computed(self)

    monkeypatch.setattr(Loss, "compute", compute)
    ran = llm("train", *small, f"hydra.run.dir={tmp_path / 'run'}")
    assert ran.code == 0
    assert "step 5: val_loss is nan, which cannot be the best" in ran.err
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert next(row["val_loss"] for row in rows if row["val_loss"]) == "nan"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["best_step"] in (10, 12)


# -- the closing summary ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1), (None, 1)]
)
def test_a_broken_summary_leaves_a_completed_run_that_resume_sums_up(llm, small, tmp_path, monkeypatch, broken, code):
    folder = tmp_path / "run"

    def fail(*_):
        raise broken

    with monkeypatch.context() as patch:
        if broken is None:  # it cannot even be imported
            patch.delattr(llmcli, "results")
            patch.setitem(sys.modules, "llmcli.results", None)
        else:
            patch.setattr(results, "floor_of", fail)
        ended = llm("train", *small, f"hydra.run.dir={folder}")
    assert ended.code == code
    assert f"the run is complete, without its final figures; llm train resume={folder} writes them" in ended.err
    assert files.read_json(folder / "status.json")["state"] == "completed"
    assert not (folder / "metrics.json").exists()
    weights = checkpoint.read(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert llm("train", f"resume={folder}").code == 0
    assert files.read_json(folder / "metrics.json")["steps"] == 12
    again = checkpoint.read(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
