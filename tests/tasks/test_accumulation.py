"""The loss is the mean over all targets of an optimizer step, however they are cut into micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from llmcli.errors import LLMError
from llmcli.metrics.base import Metric
from llmcli.metrics.text import Loss
from llmcli.tasks.base import StepResult, Task
from llmcli.trainer import quiet_lightning


class Regression(Task):
    """Sum of squared errors over as many targets as a batch brings."""

    takes = ("numbers",)
    kinds = ()

    def __init__(self) -> None:
        super().__init__(optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1), schedule=lambda p, s: 1.0)
        self.model = nn.Linear(3, 1, bias=False)
        nn.init.constant_(self.model.weight, 0.5)
        self.gradients: list[torch.Tensor] = []

    def _step(self, batch: Any, stage: str) -> StepResult:
        error = self.model(batch["x"]).squeeze(-1) - batch["y"]
        return StepResult(loss=error.square().sum(), n=batch["n_tokens"])

    def metrics(self) -> list[Metric]:
        return [Loss()]

    def on_before_zero_grad(self, optimizer: Any) -> None:
        if self.model.weight.grad is not None:
            self.gradients.append(self.model.weight.grad.clone())


def _batches(sizes: list[int]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    result = []
    for index, n in enumerate(sizes):
        x = torch.randn(n, 3, generator=generator)
        result.append({"x": x, "y": x.sum(-1) * 2, "n_tokens": n, "index": index})
    return result


def _gradients(batches: list[dict[str, Any]], accumulate: int, nominal: int, tmp_path: Path) -> Regression:
    quiet_lightning()
    task = Regression()
    task.nominal_tokens = nominal
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=accumulate, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, DataLoader(batches, batch_size=None), DataLoader(batches[:1], batch_size=None))
    return task


@pytest.mark.parametrize("sizes", [[8, 8, 8], [1, 20, 3], [5, 8, 2]])
def test_accumulation_equals_the_large_batch(sizes, tmp_path):
    parts = _batches(sizes)
    whole = {
        "x": torch.cat([p["x"] for p in parts]),
        "y": torch.cat([p["y"] for p in parts]),
        "n_tokens": sum(sizes),
        "index": 0,
    }
    apart = _gradients(parts, len(sizes), nominal=8, tmp_path=tmp_path)
    together = _gradients([whole], 1, nominal=sum(sizes), tmp_path=tmp_path)
    torch.testing.assert_close(apart.model.weight, together.model.weight)


def test_the_last_incomplete_accumulation_of_an_epoch_is_a_mean_too(tmp_path):
    parts = _batches([8, 8, 8, 4])
    apart = _gradients(parts, 3, nominal=8, tmp_path=tmp_path)
    together = Regression()
    optimizer = torch.optim.SGD(together.parameters(), lr=0.1)
    for group in (parts[:3], parts[3:]):
        loss = sum(together._step(p, "train").loss for p in group) / sum(p["n_tokens"] for p in group)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(apart.model.weight, together.model.weight)


def test_a_non_finite_loss_names_step_and_batch(tmp_path):
    batches = _batches([4, 4, 4])
    batches[1]["y"][2] = float("nan")
    with pytest.raises(LLMError, match=r"became nan at step 1 \(batch 1 of epoch 0") as caught:
        _gradients(batches, 1, nominal=4, tmp_path=tmp_path)
    assert caught.value.hint.startswith("nothing is saved yet; start again with a lower optimizer.lr")


def test_figures_that_are_not_finite_name_the_checkpoint_there_is(tmp_path):
    task = Regression()
    task.saved = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with torch.no_grad():
        task.model.weight[0, 1] = float("nan")
    with pytest.raises(LLMError) as caught:
        task.on_save_checkpoint({"state_dict": task.state_dict()})
    assert f"{task.saved} is kept" in caught.value.hint
    assert f"llm train resume={tmp_path / 'run'} optimizer.lr=LR" in caught.value.hint


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    task = Regression()
    with torch.no_grad():
        task.model.weight[0, 1] = float("inf")
    with pytest.raises(LLMError, match=r"model\.weight"):
        task.on_save_checkpoint({"state_dict": task.state_dict()})


def test_batches_that_are_steps_of_their_own_cost_no_pass_over_the_gradients(tmp_path, monkeypatch):
    """Examples differ in their targets from batch to batch: the loss is divided, not every gradient."""
    monkeypatch.setattr(torch, "_foreach_mul_", None)
    parts = _batches([1, 20, 3])
    apart = _gradients(parts, 1, nominal=8, tmp_path=tmp_path)
    together = Regression()
    optimizer = torch.optim.SGD(together.parameters(), lr=0.1)
    for part in parts:
        optimizer.zero_grad()
        (together._step(part, "train").loss / part["n_tokens"]).backward()
        optimizer.step()
    torch.testing.assert_close(apart.model.weight, together.model.weight)
