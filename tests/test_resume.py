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

from llmcli import assembly, checkpoint, files, runs
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


def test_a_lone_checkpoint_goes_on_exactly_in_a_new_folder(llm, small, tmp_path, monkeypatch):
    common = [*small, *TRANSFORMER, "callbacks.checkpoints.every=0.000001", "callbacks.checkpoints.keep=99"]
    whole = tmp_path / "whole"
    assert llm("train", *common, f"hydra.run.dir={whole}").code == 0
    lone = tmp_path / "lone" / "model.ckpt"
    lone.parent.mkdir()
    lone.write_bytes((whole / "checkpoints" / "step-00000007.ckpt").read_bytes())
    given = tmp_path / "given"
    assert llm("train", f"resume={lone}", f"hydra.run.dir={given}").code == 0
    assert llm("train", f"resume={lone}").code == 0
    [named] = (tmp_path / "runs" / "text-transformer").iterdir()
    for folder in (given, named):
        assert _last(folder)["global_step"] == 12
        for key, value in _last(whole)["state_dict"].items():
            assert torch.equal(value, _last(folder)["state_dict"][key]), key
        after = [row["loss"] for row in read_rows(whole / "metrics.csv") if int(row["step"]) > 7]
        assert [row["loss"] for row in read_rows(folder / "metrics.csv")] == after
        assert runs.summarise(folder).state == "completed" and runs.summarise(folder).model == "transformer"
    assert lone.parent.is_dir() and len(list(lone.parent.iterdir())) == 1
    refused = llm("train", f"resume={whole}", f"hydra.run.dir={tmp_path / 'third'}")
    assert refused.code == 2 and "goes on in its own folder" in refused.err


def test_a_lone_checkpoint_is_the_best_of_its_new_folder_from_the_start(llm, small, tmp_path, monkeypatch):
    assert llm("train", *small, *TRANSFORMER, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    lone = (tmp_path / "run" / "checkpoints" / "last.ckpt").rename(tmp_path / "model.ckpt")
    monkeypatch.setattr(StepSeeds, "on_train_batch_start", lambda *args: _kill())
    with pytest.raises(Killed):
        llm("train", f"resume={lone}", "trainer.max_steps=14", f"hydra.run.dir={tmp_path / 'new'}")
    assert (tmp_path / "new" / "checkpoints" / "best.ckpt").read_bytes() == lone.read_bytes()


def _kill() -> None:
    raise Killed


def test_a_run_that_died_before_its_first_checkpoint_may_start_again(llm, small, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    command = ["train", *small, *TRANSFORMER, f"hydra.run.dir={folder}"]
    with monkeypatch.context() as patch:
        patch.setattr(StepSeeds, "on_train_batch_start", lambda *args: _kill())
        with pytest.raises(Killed):
            llm(*command)
    running = llm(*command)  # its process, this one, is alive
    assert running.code == 2 and "holds a run that is going on" in running.err
    files.write_json(folder / "status.json", {**files.read_json(folder / "status.json"), "pid": 2**22 + 1})
    assert "killed" in llm("runs", f"dir={tmp_path}").out
    nothing_yet = llm("train", f"resume={folder}")
    assert nothing_yet.code == 2
    assert "has no checkpoint yet" in nothing_yet.err and f"llm runs delete {folder}" in nothing_yet.err
    assert llm(*command).code == 0
    again = llm(*command)
    assert again.code == 2 and f"llm train resume={folder} continues it" in again.err


def test_a_run_is_listed_and_deleted_before_its_first_step(llm, small, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "mine"

    def no_memory(*args: object, **kwargs: object) -> None:
        raise Killed

    monkeypatch.setattr("pytorch_lightning.Trainer.fit", no_memory)
    with pytest.raises(Killed):
        llm("train", *small, *TRANSFORMER, f"hydra.run.dir={folder}")
    assert runs.summarise(folder).model == "transformer"
    files.write_json(folder / "status.json", {**files.read_json(folder / "status.json"), "pid": 2**22 + 1})
    assert "killed" in llm("runs").out
    assert llm("runs", "delete", str(folder), "--yes").code == 0 and not folder.exists()


def test_a_resumed_run_can_be_tried_without_training(llm, small, tmp_path):
    folder = tmp_path / "run"
    assert llm("train", *small, *TRANSFORMER, f"hydra.run.dir={folder}").code == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    tried = llm("train", f"resume={folder}", "trainer.max_steps=20", "--dry-run", "--json")
    assert tried.code == 0, tried.err
    assert json.loads(tried.out)["steps"] == 20
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


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


def test_another_rate_and_clipping_hold_from_the_checkpoint_on_and_are_said(llm, small, tmp_path):
    """The way out of a loss that became infinite: an exact continuation would only become infinite again."""
    common = [*small, *TRANSFORMER, "optimizer=adamw", "schedule=constant", "schedule.warmup=0"]
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        assert llm("train", *common, f"hydra.run.dir={folder}").code == 0
    lr = _last(same)["optimizer_states"][0]["param_groups"][0]["lr"]
    resumed = llm("train", f"resume={same}", "trainer.max_steps=14", f"optimizer.lr={lr}")
    assert resumed.code == 0 and "no longer the same run" not in resumed.err
    resumed = llm(
        "train", f"resume={other}", "trainer.max_steps=14",
        f"optimizer.lr={lr / 4}", "optimizer.weight_decay=0.5", "trainer.clip_norm=0.5",
    )  # fmt: skip
    assert resumed.code == 0
    assert f"optimizer.lr was {lr} and is now {lr / 4}: from here on this is no longer the same run" in resumed.err
    assert "trainer.clip_norm was 1.0 and is now 0.5" in resumed.err
    content = _last(other)
    groups = content["optimizer_states"][0]["param_groups"]
    assert all(group["lr"] == group["initial_lr"] == lr / 4 for group in groups)
    assert groups[0]["weight_decay"] == 0.5
    assert content["lr_schedulers"][0]["base_lrs"] == [lr / 4] * len(groups)
    rows = [float(row["lr"]) for row in read_rows(other / "metrics.csv") if row["lr"]]
    assert rows == pytest.approx([lr] * 12 + [lr / 4] * 2)
    assert not torch.equal(
        content["state_dict"]["model.input_embedding.weight"],
        _last(same)["state_dict"]["model.input_embedding.weight"],
    )
    assert all(state["step"] == 14 for state in content["optimizer_states"][0]["state"].values())


@pytest.mark.parametrize("model", [TRANSFORMER, LSTM])
def test_another_number_of_processes_is_refused(llm, small, tmp_path, monkeypatch, model):
    """Each process would read other rows than those that the run has yet to see."""
    assert llm("train", *small, *model, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    monkeypatch.setattr(assembly, "accelerator_of", lambda *args, **options: ("cpu", 2))
    refused = llm("train", f"resume={tmp_path / 'run'}", "trainer.max_steps=20")
    assert refused.code == 2
    assert "dealt to 1 process, this is 2" in refused.err and "CUDA_VISIBLE_DEVICES" in refused.err
