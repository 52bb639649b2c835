"""The TensorBoard logger: which scalars it writes when, and what it says where TensorBoard is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from llmcli.callbacks.history import read_rows


class Recorder:
    """Stands for torch.utils.tensorboard.SummaryWriter."""

    made: list[Recorder]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.open = True
        Recorder.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert self.open
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.open = False


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Recorder
    Recorder.made = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)


def as_recorded(folder: Path, kind: str, names: dict[str, str]) -> list[tuple[str, float, int]]:
    """The rows of metrics.csv that have `kind`, as scalars: column -> the name after the slash."""
    rows = [row for row in read_rows(folder / "metrics.csv") if row[kind]]
    return [(name, float(row[column]), int(row["step"])) for row in rows for column, name in names.items()]


@pytest.mark.usefixtures("installed")
def test_it_writes_every_row_and_every_validation_once_and_goes_on_after_a_resume(llm, small, tmp_path):
    folder = tmp_path / "run"
    assert llm("train", *small, "logger=tensorboard", f"hydra.run.dir={folder}").code == 0
    assert llm("train", f"resume={folder}", "trainer.max_steps=15").code == 0
    first, second = Recorder.made
    assert first.folder == second.folder == str(folder / "tensorboard")
    assert (first.purge_step, second.purge_step) == (1, 13)
    assert not first.open and not second.open
    written = first.scalars + second.scalars
    trained = [scalar for scalar in written if scalar[0].startswith("train/")]
    names = {"loss": "train/loss", "lr": "train/lr", "tokens_per_second": "train/tokens_per_second"}
    expected = as_recorded(folder, "loss", names)
    assert len(expected) == 3 * 15
    # metrics.csv has seven digits
    assert [scalar[::2] for scalar in trained] == [scalar[::2] for scalar in expected]
    assert [value for _, value, _ in trained] == pytest.approx([value for _, value, _ in expected], rel=1e-6)
    validated = [scalar for scalar in written if scalar[0] == "val/loss"]
    assert validated == [pytest.approx(scalar) for scalar in as_recorded(folder, "val_loss", {"val_loss": "val/loss"})]
    assert len(validated) >= 3


def test_without_tensorboard_it_says_what_to_install(llm, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # what Python does for a missing module
    result = llm("train", *small, "logger=tensorboard")
    assert result.code == 2
    assert "logger=tensorboard needs TensorBoard" in result.err
    assert 'pip install "llmcli[tensorboard]"' in result.err


def test_the_real_writer_makes_event_files(llm, small, tmp_path):
    pytest.importorskip("tensorboard", reason='TensorBoard is an extra: pip install "llmcli[tensorboard]"')
    folder = tmp_path / "run"
    assert llm("train", *small, "logger=tensorboard", f"hydra.run.dir={folder}").code == 0
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
