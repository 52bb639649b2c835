"""Promise 4: a run killed at any step and resumed ends with the same weights, bit for bit, as one never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llmcli import checkpoint, files, runs
from llmcli.callbacks.history import History, read_rows
from llmcli.callbacks.steps import StepSeeds

TRANSFORMER = ["model=transformer", "model.n_heads=2", "model.ngram_rows=[64]", "model.dropout=0.1"]
LSTM = ["model=lstm", "model.d_hidden=16", "model.dropout_output=0.1"]


class Killed(BaseException):
    """Stands for a kill -9: nothing more is saved."""


def _last(folder: Path) -> dict:
    return checkpoint.read(folder / "checkpoints" / "last.ckpt")


def _assert_same_run(a: Path, b: Path) -> None:
    one, other = _last(a), _last(b)
    assert one["global_step"] == other["global_step"]
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]), key
    _assert_equal(one["optimizer_states"], other["optimizer_states"])
    _assert_equal(one["loops"]["fit_loop"]["state_dict"], other["loops"]["fit_loop"]["state_dict"])
    _assert_equal(one["lr_schedulers"], other["lr_schedulers"])
    losses = [[(r["step"], r["loss"], r.get("val_loss")) for r in read_rows(f / "metrics.csv")] for f in (a, b)]
    assert losses[0] == losses[1]


def _assert_equal(a: object, b: object) -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor) and torch.equal(a, b)
    elif isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys()
        for key in a:
            _assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert isinstance(b, list | tuple) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _assert_equal(x, y)
    else:
        assert a == b


@pytest.fixture
def seven(small, tmp_path, corpus) -> list[str]:
    """Overrides of a run with 7 batches an epoch, an odd number, so that an epoch ends within a few steps."""
    text = tmp_path / "seven.txt"
    text.write_text("".join(corpus.read_text().splitlines(keepends=True)[:320]))
    return [*small, f"data.path={text}", "batch.size=16", "batch.seq_len=64", "callbacks.checkpoints.every=0.000001"]


def test_the_small_corpus_has_seven_batches_an_epoch(llm, seven):
    tokens = json.loads(llm("train", *seven, *TRANSFORMER, "--dry-run", "--json").out)["train_tokens"]
    assert (tokens - 1) // (16 * 64) == 7


@pytest.mark.parametrize("way", ["killed", "asked"])
@pytest.mark.parametrize(
    ("model", "accumulate", "val_every", "steps"),
    [(TRANSFORMER, 1, 5, 17), (LSTM, 1, 3, 17), (TRANSFORMER, 2, 3, 10), (LSTM, 2, 2, 8), (TRANSFORMER, 3, 1, 6)],
    ids=["transformer", "lstm", "transformer-2", "lstm-2", "transformer-3"],
)
def test_a_run_stopped_anywhere_and_resumed_is_the_run_never_stopped(
    llm, seven, tmp_path, monkeypatch, model, accumulate, val_every, steps, way
):
    """Killed (a kill -9: nothing more is saved) or asked to stop (Ctrl-C), within an epoch and at its edge."""
    common = [
        *seven, *model, f"trainer.accumulate={accumulate}", f"trainer.val_every={val_every}",
        f"trainer.max_steps={steps}",
    ]  # fmt: skip
    whole = tmp_path / "whole"
    assert llm("train", *common, f"hydra.run.dir={whole}").code == 0
    epoch = 7 // accumulate * accumulate
    assert steps * accumulate > 2 * epoch, "the run crosses two epochs"
    rng = random.Random(accumulate)
    for stop_at in sorted({epoch, 2 * epoch - 1, rng.randrange(accumulate + 1, steps * accumulate - 1)}):
        broken = tmp_path / f"{way}-{stop_at}"
        started = StepSeeds.on_train_batch_start

        def stop(self, trainer, module, batch, batch_idx, at=stop_at, started=started):
            if trainer.fit_loop.epoch_loop.total_batch_idx == at:
                if way == "killed":
                    raise Killed
                signal.raise_signal(signal.SIGINT)
            started(self, trainer, module, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(StepSeeds, "on_train_batch_start", stop)
            with pytest.raises(Killed if way == "killed" else SystemExit):
                llm("train", *common, f"hydra.run.dir={broken}")
        assert llm("train", f"resume={broken}").code == 0
        _assert_same_run(whole, broken)


def test_resume_depends_on_the_step_seeds(llm, small, tmp_path, monkeypatch):
    """The comparison above can fail: without a seed per step, dropout differs after a resume."""
    common = [*small, *TRANSFORMER, "callbacks.checkpoints.every=0.000001"]
    monkeypatch.setattr(StepSeeds, "on_train_batch_start", lambda *args: None)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    torch.manual_seed(0)
    assert llm("train", *common, f"hydra.run.dir={whole}").code == 0
    torch.manual_seed(0)
    written = History.on_validation_start

    def kill(self, trainer, module):
        if trainer.global_step == 10:
            raise Killed
        written(self, trainer, module)

    with monkeypatch.context() as patch:
        patch.setattr(History, "on_validation_start", kill)
        with pytest.raises(Killed):
            llm("train", *common, f"hydra.run.dir={broken}")
    assert llm("train", f"resume={broken}").code == 0
    with pytest.raises(AssertionError):
        _assert_same_run(whole, broken)


def _start(arguments: list[str]) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "LLM_RUN_DIR"}
    root = Path(__file__).parent.parent
    environment["PYTHONPATH"] = os.pathsep.join([str(root), environment.get("PYTHONPATH", "")])
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # another number of threads sums in another order
    return subprocess.Popen(
        [sys.executable, "-m", "llmcli", "train", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the run ended with {process.returncode}: {process.communicate()[0]}")
        rows = read_rows(folder / "metrics.csv")
        if rows and int(rows[-1]["step"]) >= step and (folder / "checkpoints" / "last.ckpt").exists():
            return
        time.sleep(0.02)
    raise AssertionError("the run did not get there in two minutes")


@pytest.mark.parametrize("workers", [0, 2])
def test_kill_minus_nine_then_resume(llm, small, tmp_path, workers):
    common = [
        *small, *TRANSFORMER, f"batch.num_workers={workers}", "trainer.max_steps=150", "trainer.val_every=40",
        "callbacks.checkpoints.every=0.05",
    ]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = _start([*common, f"hydra.run.dir={broken}"])
    _wait_for_step(broken, random.Random(workers).randrange(10, 60), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert runs.summarise(broken).state == "killed"
    assert llm("train", *common, f"hydra.run.dir={whole}").code == 0
    assert llm("train", f"resume={broken}").code == 0
    assert runs.summarise(broken).state == "completed"
    _assert_same_run(whole, broken)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(llm, small, tmp_path, number, code):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    common = [*small, *TRANSFORMER, "trainer.max_steps=400", "trainer.val_every=7"]
    process = _start([*common, f"hydra.run.dir={folder}", "callbacks.checkpoints.every=0.05"])
    _wait_for_step(folder, 20, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "stopping after this step" in output
    assert f"go on with: llm train resume={folder}" in output
    assert "Traceback" not in output
    assert files.read_json(folder / "status.json")["state"] == "interrupted"
    stopped_at = _last(folder)["global_step"]
    assert 20 <= stopped_at < 400
    steps = stopped_at + 3
    assert llm("train", f"resume={folder}", f"trainer.max_steps={steps}").code == 0
    assert _last(folder)["global_step"] == steps
    assert whole.exists() is False


def test_resume_refuses_to_become_another_run(llm, small, tmp_path):
    folder = tmp_path / "run"
    assert llm("train", *small, *TRANSFORMER, f"hydra.run.dir={folder}").code == 0
    refused = llm("train", f"resume={folder}", "model.d_model=32")
    assert refused.code == 2
    assert "model.d_model cannot change" in refused.err


def test_resume_notices_that_the_data_has_changed(llm, small, tmp_path, corpus):
    copy = tmp_path / "mine.txt"
    copy.write_text(corpus.read_text())
    folder = tmp_path / "run"
    assert llm("train", *small, *TRANSFORMER, f"data.path={copy}", f"hydra.run.dir={folder}").code == 0
    copy.write_text(corpus.read_text() + "one more line.\n")
    refused = llm("train", f"resume={folder}", "trainer.max_steps=14")
    assert refused.code == 2
    assert "the data has changed" in refused.err
