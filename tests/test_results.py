"""What is written of a run follows its task's own figure, whichever way that is better."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning.utilities import rank_zero_only

from llmcli import files, runs
from llmcli.callbacks.history import History
from llmcli.callbacks.progress import ProgressBar
from llmcli.report.curves import draw
from llmcli.tasks.language_modeling import LanguageModeling
from llmcli.trainer import Budget, TrainerSettings, build_trainer, quiet_lightning

BUDGET = Budget(steps=10, seconds=None)


def history(folder: Path, monitor: str, higher_is_better: bool) -> History:
    return History(
        folder=folder, budget=BUDGET, log_every=1, monitor=monitor, higher_is_better=higher_is_better, about={}
    )


def validate(history: History, step: int, **figures: float) -> None:
    trainer = SimpleNamespace(
        global_step=step, current_epoch=0, world_size=1,
        callback_metrics={f"val_{name}": value for name, value in figures.items()},
    )  # fmt: skip
    task = LanguageModeling.__new__(LanguageModeling)
    object.__setattr__(task, "tokens_seen", 64 * step)
    history._first_step = 0
    history.on_validation_end(trainer, task)


@pytest.mark.parametrize(("higher_is_better", "best", "step"), [(True, 0.9, 2), (False, 0.2, 3)])
def test_the_status_names_the_figure_its_best_value_and_its_last(tmp_path, higher_is_better, best, step):
    kept = history(tmp_path, "val_accuracy", higher_is_better)
    for number, value in enumerate([0.5, 0.9, 0.2, 0.4], start=1):
        validate(kept, number, accuracy=value, loss=number)
    status = files.read_json(tmp_path / "status.json")
    assert (status["monitor"], status["higher_is_better"]) == ("val_accuracy", higher_is_better)
    assert (status["best"], status["last"], kept.now.best_step) == (best, 0.4, step)
    (tmp_path / "config.yaml").touch()
    summary = runs.summarise(tmp_path)
    assert (summary.monitor, summary.best) == ("val_accuracy", best)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite_is_never_the_best(tmp_path, broken):
    kept = history(tmp_path, "val_loss", False)
    validate(kept, 1, loss=broken)
    assert kept.now.best_step is None
    validate(kept, 2, loss=3.0)
    validate(kept, 3, loss=broken)
    assert (kept.now.best_step, kept.now.best) == (2, {"loss": 3.0})


def test_the_final_figure_replaces_that_of_the_validation(tmp_path):
    kept = history(tmp_path, "val_loss", False)
    validate(kept, 1, loss=3.0)
    kept.replace_best({"loss": 3.25})
    kept.write_status("completed")
    assert files.read_json(tmp_path / "status.json")["best"] == 3.25
    assert kept.now.best_step == 1


def test_tokens_are_those_of_all_processes(tmp_path):
    kept = history(tmp_path, "val_loss", False)
    trainer = SimpleNamespace(
        global_step=4, current_epoch=0, world_size=3,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
    )  # fmt: skip
    kept._first_step = 0
    kept.log_row(trainer, SimpleNamespace(take_losses=lambda: 2.0, tokens_seen=100))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert row["tokens"] == "300"
    assert float(row["tokens_per_second"]) == pytest.approx(300 / float(row["seconds"]), rel=1e-3)


@pytest.mark.parametrize(
    ("monitor", "shown"), [("val_loss", "val 2.000, best"), ("val_exact_match", "val exact match 0.250, best")]
)
def test_the_progress_bar_shows_what_is_monitored(tmp_path, monitor, shown):
    kept = history(tmp_path, monitor, monitor != "val_loss")
    bar = ProgressBar(history=kept, budget=BUDGET)
    validate(kept, 1, loss=2.0, exact_match=0.25)
    assert shown in bar._figures(kept.now)


def test_curves_have_a_panel_for_a_figure_that_is_no_loss(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss,val_loss,val_accuracy\n1,3.0,,\n1,,3.1,0.2\n2,2.0,,\n2,,2.1,0.6\n")
    heights = []
    for monitor in ("loss", "accuracy"):
        picture = draw(
            tmp_path,
            monitor=monitor,
            higher_is_better=monitor == "accuracy",
            floor={"loss": 2.5, "accuracy": 0.5},
            floor_name="5-gram",
            loss_unit="nats/token",
        ).read_bytes()
        assert picture.startswith(b"\x89PNG")
        heights.append(int.from_bytes(picture[20:24], "big"))
    assert heights[1] > heights[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]


def test_only_the_first_process_of_a_launch_writes_the_run(tmp_path, monkeypatch):
    """torchrun tells each process its rank before the processes have met."""
    launched = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400", "TORCHELASTIC_RUN_ID": "x"}  # fmt: skip
    quiet_lightning()
    settings = TrainerSettings(
        max_steps=1, max_epochs=None, max_time=None, max_tokens=None, accelerator="cpu", devices=2, strategy="ddp",
        precision="32-true", compile=False, accumulate=1, clip_norm=None, val_every=1, val_batches=1, log_every=1,
        default_steps=1,
    )  # fmt: skip
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # building a trainer sets it
    for rank in (1, 0):
        for name, value in {**launched, "RANK": str(rank), "LOCAL_RANK": str(rank)}.items():
            monkeypatch.setenv(name, value)
        assert build_trainer(settings, callbacks=[], folder=tmp_path).is_global_zero is (rank == 0)
