"""The average of the weights: what it is worth before, at and after its first step."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from llmcli import checkpoint
from llmcli.callbacks.ema import EMA
from llmcli.callbacks.history import read_rows
from llmcli.errors import InputError
from llmcli.trainer import quiet_lightning


class Walk(pl.LightningModule):
    """Its weight goes up by 1 a step: 1, 2, 3, ...; `counted` is a buffer of integers that goes along."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("counted", torch.zeros((), dtype=torch.long))
        self.validated: list[float] = []

    def training_step(self, batch, batch_idx):
        self.counted += 1
        return -self.weight

    def validation_step(self, batch, batch_idx):
        self.validated.append(float(self.weight))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(tmp_path, **settings) -> Walk:
    quiet_lightning()
    module, data = Walk(), DataLoader(torch.zeros(6, 1))
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, val_check_interval=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[EMA(**settings)], num_sanity_val_steps=0,
        default_root_dir=tmp_path, limit_val_batches=1,
    )  # fmt: skip
    trainer.fit(module, data, data)
    return module


def test_the_average_by_hand(tmp_path):
    module = fit(tmp_path, decay=0.5, start_step=0)
    assert module.validated == [1.0, 1.5, 2.25, 3.125, 4.0625, 5.03125]


@pytest.mark.parametrize("start_step", [2, 4])
def test_before_its_first_step_the_average_is_the_weights(tmp_path, start_step):
    module = fit(tmp_path, decay=0.5, start_step=start_step)
    assert module.validated[:start_step] == [1.0, 2.0, 3.0, 4.0][:start_step]
    assert module.validated[start_step] == start_step + 0.5  # half of the copy before, half of the weights


def test_a_run_that_ends_before_the_first_step_ends_with_its_weights(tmp_path):
    module = fit(tmp_path, decay=0.5, start_step=99)
    assert module.validated == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert float(module.weight.detach()) == 6.0 and int(module.counted) == 6


def test_a_run_with_a_late_average_saves_and_validates_what_it_trained(llm, small, tmp_path):
    plain, late = tmp_path / "plain", tmp_path / "late"
    assert llm("train", *small, f"hydra.run.dir={plain}").code == 0
    ema = ["callbacks=ema", "callbacks.ema.start_step=1000"]
    assert llm("train", *small, *ema, f"hydra.run.dir={late}").code == 0
    for name in ("best.ckpt", "last.ckpt"):
        one, other = (checkpoint.read(folder / "checkpoints" / name)["state_dict"] for folder in (plain, late))
        assert all(torch.equal(one[key], other[key]) for key in one)
    rows = [[row.get("val_loss") for row in read_rows(folder / "metrics.csv")] for folder in (plain, late)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("settings", [{"decay": 1.0, "start_step": 0}, {"decay": 0.9, "start_step": -1}])
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(InputError):
        EMA(**settings)
