"""Training on several processes: equal weights on all, those of one process that reads the same rows, exact resume."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from llmcli import checkpoint
from llmcli.callbacks.steps import BudgetStop
from llmcli.trainer import Budget

TWO = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
TRANSFORMER = ["model=transformer", "model.n_heads=2", "model.ngram_rows=[64]", "model.dropout=0"]
LSTM = ["model=lstm", "model.d_hidden=16", "schedule=constant", "schedule.warmup=0", "~callbacks.samples"]
# A callback of one's own: the weights of every process, at the end.
EVERY_RANK = """
import os
from pathlib import Path
import pytorch_lightning as pl
import torch

class EveryRank(pl.Callback):
    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), Path(os.environ["WEIGHTS"]) / f"{trainer.global_rank}.pt")
"""


def _train(folder: Path, *arguments: str) -> list[dict[str, torch.Tensor]]:
    """Run `llm train` and return the weights with which each process ended."""
    weights = folder.parent / f"weights-{folder.name}"
    weights.mkdir(exist_ok=True)
    (weights / "every_rank.py").write_text(EVERY_RANK)
    root = Path(__file__).parent.parent.parent
    path = os.pathsep.join([str(root), str(weights), os.environ.get("PYTHONPATH", "")])
    environment = {k: v for k, v in os.environ.items() if k != "LLM_RUN_DIR"}
    environment |= {"PYTHONPATH": path, "WEIGHTS": str(weights), "LLM_TRUST": "every_rank"}
    done = subprocess.run(
        [sys.executable, "-m", "llmcli", "train", *arguments],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [torch.load(file, weights_only=True) for file in sorted(weights.glob("*.pt"))]


def _assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


def _last(folder: Path) -> dict:
    return checkpoint.read(folder / "checkpoints" / "last.ckpt")


def test_two_processes_are_one_that_accumulates(llm, small, tmp_path):
    """Both read the same windows in a step, two halves of them at once or one after the other."""
    common = [*small, *TRANSFORMER, "trainer.max_steps=6", "optimizer=sgd"]
    two, one = tmp_path / "two", tmp_path / "one"
    ranks = _train(two, *common, *TWO, "+callbacks.every._target_=every_rank.EveryRank", f"hydra.run.dir={two}")
    assert len(ranks) == 2
    _assert_equal(*ranks)
    _assert_equal(ranks[0], _last(two)["state_dict"])
    assert llm("train", *common, "trainer.accumulate=2", f"hydra.run.dir={one}").code == 0
    alone = _last(one)["state_dict"]
    assert not any(torch.equal(value, torch.zeros_like(value)) for value in alone.values())
    for key, value in ranks[0].items():
        torch.testing.assert_close(value, alone[key], msg=key)


def test_frozen_weights_are_no_matter_to_two_processes(llm, small, tmp_path):
    """They have no gradient to exchange; the others learn as on one process, at the rates of their layers."""
    froze = ["finetune.freeze=[model.input_embedding.*,model.blocks.0.q.*]", "finetune.layer_decay=0.5"]
    common = [*small, *TRANSFORMER, *froze, "trainer.max_steps=3", "optimizer=sgd"]
    two, one = tmp_path / "two", tmp_path / "one"
    ranks = _train(two, *common, *TWO, "+callbacks.every._target_=every_rank.EveryRank", f"hydra.run.dir={two}")
    _assert_equal(*ranks)
    assert llm("train", *common, "trainer.accumulate=2", f"hydra.run.dir={one}").code == 0
    for key, value in _last(one)["state_dict"].items():
        torch.testing.assert_close(ranks[0][key], value, msg=key)
        if key in ("model.input_embedding.weight", "model.blocks.0.q.weight"):
            assert torch.equal(ranks[0][key], value)


def test_a_recurrent_run_on_two_processes_resumes_exactly(llm, small, tmp_path):
    """Each process carries the state of its own rows; a resume gives it back to the one it belongs to."""
    common = [*small, *LSTM, *TWO, "+callbacks.every._target_=every_rank.EveryRank"]
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    expected = _train(whole, *common, "trainer.max_steps=6", f"hydra.run.dir={whole}")
    _train(parted, *common, "trainer.max_steps=3", f"hydra.run.dir={parted}")
    carried = _last(parted)["llm"]["carried"]
    assert len(carried) == 2
    assert any(not torch.equal(value, carried[1][name]) for name, value in carried[0].items())
    found = _train(parted, f"resume={parted}", "trainer.max_steps=6")
    for ranks in (expected, found):
        _assert_equal(*ranks)
    _assert_equal(expected[0], found[0])
    for a, b in zip(_last(whole)["llm"]["carried"], _last(parted)["llm"]["carried"], strict=True):
        _assert_equal(a, b)


class _Rank:
    """As much of a Trainer as a process of two needs; `reduce` sums with what the other one sends."""

    world_size, global_step = 2, 1

    def __init__(self, rank: int, others: float = 0.0) -> None:
        self.global_rank, self.is_global_zero, self._others, self.strategy = rank, rank == 0, others, self

    def reduce(self, value: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "sum"
        return value + self._others


class _Clock:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def elapsed(self) -> float:
        return self._seconds


def test_a_limit_of_time_is_the_first_processs_for_all(monkeypatch):
    """Their clocks say 3 and 5 of 4 seconds: neither stops, and both are at three quarters of the schedule."""
    budget, module = Budget(steps=None, seconds=4.0), torch.nn.Module()
    module.device = torch.device("cpu")
    monkeypatch.setattr("llmcli.callbacks.steps.Task", torch.nn.Module)
    for trainer, own in ((_Rank(0), 3.0), (_Rank(1, others=3.0), 5.0)):
        trainer.should_stop = False
        stop = BudgetStop(budget=budget, history=_Clock(own))
        stop.setup(trainer, module, "fit")
        stop.on_before_optimizer_step(trainer, module, None)
        stop.on_train_batch_end(trainer, module, None, None, 0)
        assert module.progress(10) == 0.75
        assert not trainer.should_stop
