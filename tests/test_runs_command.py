"""`llm runs`: list, show and delete, and what it refuses to delete."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
from pathlib import Path

import pytest

from llmcli import files, runs


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of a trained run at runs/text-transformer/one, which a test may delete."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "text-transformer" / "one"))


def state(folder: Path, **changes: object) -> None:
    files.write_json(folder / "status.json", {**files.read_json(folder / "status.json"), **changes})


def test_list(llm, run):
    result = llm("runs")
    header, row = result.out.splitlines()
    assert header.split() == ["run", "task", "model", "data", "best", "status", "step", "MB"]
    best = files.read_json(run / "metrics.json")["val_loss"]  # of the whole split: what the run itself reported
    name, task, model, data, monitor, loss, status, step, size = row.split()
    assert (name, task, model) == ("runs/text-transformer/one", "language_modeling", "transformer")
    assert (data, monitor, loss) == ("text", "val_loss", f"{best:.4f}")
    assert (status, step) == ("completed", "12") and float(size) > 0


def test_list_as_json(llm, run):
    [only] = json.loads(llm("runs", "--json").out)
    assert set(only) == {"id", "task", "model", "data", "state", "step", "monitor", "best", "size_mb", "modified"}
    assert only["id"] == "runs/text-transformer/one" and only["state"] == "completed"


def test_no_runs(llm, tmp_path):
    result = llm("runs")
    assert result.code == 0 and result.out == "" and f"no runs in {tmp_path / 'runs'}" in result.err
    assert json.loads(llm("runs", "list", "--json").out) == []


def test_another_folder_of_runs(llm, run, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert llm("runs").out == ""
    assert "elsewhere/text-transformer/one" in llm("runs", "dir=elsewhere").out


@pytest.mark.parametrize("name", ["runs/text-transformer/one", "text-transformer/one", "latest"])
def test_show(llm, run, name):
    result = llm("runs", "show", name)
    figures = files.read_json(run / "metrics.json")
    assert result.code == 0 and "checkpoints/best.ckpt" in result.out and str(figures["steps"]) in result.out
    content = json.loads(llm("runs", "show", name, "--json").out)
    assert set(content) == {"run", "status", "metrics", "files"}
    assert content["metrics"] == figures
    assert content["files"]["curves.png"] == (run / "curves.png").stat().st_size


def test_delete(llm, run):
    other = Path(shutil.copytree(run, run.with_name("two")))
    result = llm("runs", "delete", str(run), "--yes")
    assert result.code == 0 and f"deleted {run}" in result.err
    assert not run.exists() and (other / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize(("answer", "gone"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False)])
def test_delete_asks(llm, run, monkeypatch, answer, gone):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    result = llm("runs", "delete", str(run))
    assert result.code == 0 and f"delete {run} (" in result.err
    assert run.exists() is not gone


def test_delete_needs_an_answer(llm, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    result = llm("runs", "delete", str(run))
    assert result.code == 2 and "--yes" in result.err and run.exists()


def test_only_a_run_is_deleted(llm, run, tmp_path):
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.txt").write_text("irreplaceable", encoding="utf-8")
    (tmp_path / "looks-like-one").mkdir()
    (tmp_path / "looks-like-one" / "config.yaml").write_text("a: 1", encoding="utf-8")
    for name in ("thesis", ".", "runs", "looks-like-one"):
        result = llm("runs", "delete", name, "--yes")
        assert result.code == 2, name
        assert f"{name} is not a run folder" in result.err or f"there is no run {name}" in result.err
    assert (mine / "chapter.txt").exists() and run.exists() and (tmp_path / "looks-like-one").exists()


def test_a_running_run_is_not_deleted(llm, run):
    state(run, state="running", pid=os.getpid(), host=platform.node())
    result = llm("runs", "delete", str(run), "--yes")
    assert result.code == 2 and f"{run} is still running" in result.err and run.exists()
    assert "running" in llm("runs").out


def test_a_killed_run_is_called_so_and_may_go(llm, run):
    state(run, state="running", pid=2**22 + 1, host=platform.node())
    assert "killed" in llm("runs").out
    assert llm("runs", "delete", str(run), "--yes").code == 0 and not run.exists()


@pytest.mark.parametrize(("age", "expected"), [(5, "running"), (500, "killed")])
def test_windows_processes_are_not_asked_whether_they_live(run, monkeypatch, age, expected):
    state(run, state="running", pid=os.getpid(), host=platform.node())
    written = (run / "status.json").stat().st_mtime
    os.utime(run / "status.json", (written - age, written - age))
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("signal 0 is Ctrl-C there"))
    monkeypatch.setattr(os, "name", "nt")
    found = runs.summarise(run).state
    monkeypatch.undo()
    assert found == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shw"], "llm runs has no action 'shw'"),
        (["show"], "llm runs show needs a run folder"),
        (["delete"], "llm runs delete needs a run folder"),
        (["show", "nothing"], "there is no run nothing"),
        (["list", "one", "two"], '"two" is not an override'),
    ],
)
def test_what_it_cannot_do(llm, words, said):
    result = llm("runs", *words)
    assert result.code == 2 and said in result.err and result.out == ""
