"""Sweeps against a stand-in for the training command (fake_job.py): what runs, with which environment, what is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmcli import cli
from llmcli.sweep import _end_group

FAKE = [sys.executable, str(Path(__file__).with_name("fake_job.py"))]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def sweep(folder: Path, *words: str) -> int:
    return cli.main(arguments(folder, *words))


def arguments(folder: Path, *words: str) -> list[str]:
    program = ",".join(f"'{word}'" for word in FAKE)
    return ["train", "-m", *words, f"hydra.sweep.dir={folder}", f"+hydra.launcher.argv=[{program}]"]


def calls(folder: Path) -> list[dict]:
    path = folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_ranking_is_by_validation_loss_and_names_the_runs(tmp_path, capsys):
    assert sweep(tmp_path / "s", "trainer.max_steps=300,100,200") == 0
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines()]
    assert [line[1:] for line in lines[1:]] == [
        ["1.0000", "2.0000", "trainer.max_steps=100", str(tmp_path / "s" / "1")],
        ["2.0000", "4.0000", "trainer.max_steps=200", str(tmp_path / "s" / "2")],
        ["3.0000", "6.0000", "trainer.max_steps=300", str(tmp_path / "s" / "0")],
    ]
    assert "job 0 started   trainer.max_steps=300" in captured.err
    assert "job 2 done in 0:0" in captured.err
    assert "\x1b" not in captured.err + captured.out


def test_where_more_is_better_the_most_comes_first(tmp_path, capsys):
    assert sweep(tmp_path, "trainer.max_steps=100,300,200", "seed=77") == 0
    captured = capsys.readouterr()
    header, *lines = [line.split() for line in captured.out.splitlines()]
    assert header[:3] == ["val", "accuracy", "perplexity"]
    assert [line[1] for line in lines] == ["3.0000", "2.0000", "1.0000"]
    assert "val_accuracy 3.0000" in captured.err


def test_a_figure_that_is_not_finite_ranks_last(tmp_path, capsys):
    words = ("trainer.max_steps=100,300",)
    sweep(tmp_path, *words)
    (tmp_path / "0" / "metrics.json").write_text('{"monitor": "val_loss", "higher_is_better": false, "best": NaN}')
    capsys.readouterr()
    assert sweep(tmp_path, *words) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["3.0000", "-"]


def test_a_failing_job_does_not_stop_the_others_and_is_explained(tmp_path, capsys):
    assert sweep(tmp_path, "model=rnn,lstm,gru", "trainer.max_steps=100") == 1
    captured = capsys.readouterr()
    assert "model=rnn" in captured.out and "model=gru" in captured.out
    assert "job 1 (model=lstm) ended with exit code 1" in captured.err
    assert "the loss is not finite" in captured.err
    assert str(tmp_path / "1" / "job.log") in captured.err
    assert "llm train -m model=rnn,lstm,gru trainer.max_steps=100" in captured.err
    assert f"hydra.sweep.dir={tmp_path}" in captured.err


def test_again_runs_only_what_is_missing(tmp_path, capsys):
    words = ("model=rnn,lstm,gru", "trainer.max_steps=100")
    sweep(tmp_path, *words)
    (tmp_path / "2" / "job.json").write_text('{"overrides": ["model=gru", "trainer.max_steps=100"], "exit_code": null}')
    sweep(tmp_path, *words)
    assert [len(calls(tmp_path / str(job))) for job in range(3)] == [1, 2, 2]


def test_a_job_with_a_checkpoint_goes_on_from_it(tmp_path):
    sweep(tmp_path, "model=rnn,lstm")
    (tmp_path / "1" / "checkpoints").mkdir()
    (tmp_path / "1" / "checkpoints" / "last.ckpt").touch()
    assert sweep(tmp_path, "model=rnn,lstm") == 0
    assert calls(tmp_path / "1")[-1]["argv"][:2] == ["train", f'resume="{tmp_path / "1"}"']


def test_a_folder_of_another_job_is_refused_before_anything_runs(tmp_path, capsys):
    sweep(tmp_path, "model=rnn,gru")
    assert sweep(tmp_path, "model=transformer,rnn") == 2
    assert f"{tmp_path / '0'} holds another job (model=rnn) than model=transformer" in capsys.readouterr().err
    assert [len(calls(tmp_path / str(job))) for job in range(2)] == [1, 1]


def test_a_wrong_option_stops_the_sweep_before_it_starts(tmp_path, capsys):
    assert sweep(tmp_path / "s", "model=rnn,lstn") == 2
    assert 'there is no model "lstn". Did you mean model=lstm?' in capsys.readouterr().err
    assert not (tmp_path / "s" / "0").exists()


def test_json_is_one_object_with_every_job(tmp_path, capsys):
    assert sweep(tmp_path, "model=rnn,lstm", "trainer.max_steps=150", "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert [(job["state"], job["best"], job["exit_code"]) for job in result["jobs"]] == [
        ("done", 1.5, 0),
        ("failed", None, 1),
    ]
    assert result["failed"] == 1
    assert result["jobs"][1]["error"] == "the loss is not finite"


def test_jobs_inherit_nothing_of_a_distributed_run(tmp_path, monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LLM_RUN_DIR", "NODE_RANK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("KEPT", "yes")
    assert sweep(tmp_path, "model=rnn") == 0
    env = calls(tmp_path / "0")[0]["env"]
    assert env["KEPT"] == "yes"
    inherited = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_", "LLM_RUN_DIR", "NODE_RANK", "HYDRA_")
    assert [name for name in env if name.startswith(inherited)] == []


def test_slots_share_the_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert sweep(tmp_path, "trainer.max_steps=1,2", "hydra.launcher.n_jobs=2") == 0
    seen = {calls(tmp_path / str(job))[0]["env"]["CUDA_VISIBLE_DEVICES"] for job in range(2)}
    assert seen == {"4", "6"}


def test_slots_share_the_processors_where_nothing_says_which_are_ours(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert sweep(tmp_path, "trainer.max_steps=1,2", "hydra.launcher.n_jobs=2") == 0
    assert {calls(tmp_path / str(job))[0]["env"]["OMP_NUM_THREADS"] for job in range(2)} == {"3"}


def test_a_job_is_ended_where_there_are_no_process_groups(monkeypatch):
    monkeypatch.delattr(os, "killpg")  # as on Windows
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(os, "name", "nt")
    _end_group(process, by_force=False)
    monkeypatch.undo()
    assert process.wait(10) != 0


def test_the_sweep_runs_without_sighup(tmp_path, monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    assert sweep(tmp_path, "model=rnn") == 0


def test_overrides_reach_the_jobs_as_they_were_typed(tmp_path):
    assert sweep(tmp_path, "model=rnn", "data=text", "data.path=my book (1).txt", "--config-dir", str(tmp_path)) == 0
    argv = calls(tmp_path / "0")[0]["argv"]
    assert argv[0] == "train"
    assert "model=rnn" in argv and "data=text" in argv and "hydra.mode=RUN" in argv
    assert 'data.path="my book (1).txt"' in argv or "data.path='my book (1).txt'" in argv
    assert argv[-2:] == ["--config-dir", str(tmp_path)]
    assert not any(word.startswith(("hydra.sweep", "+hydra.launcher")) for word in argv)


def test_the_parent_keeps_its_command_line(tmp_path):
    before = list(sys.argv)
    sweep(tmp_path, "model=rnn")
    assert sys.argv == before
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_sweep_and_leaves_no_process(tmp_path, number, code):
    # the first job asked ends at once, the second ignores the request and is killed after the grace period
    words = arguments(
        tmp_path, "trainer.max_time=hang", "seed=1,2", "hydra.launcher.n_jobs=2", "hydra.launcher.grace=0.5"
    )
    # a shell has Ctrl-C ignored in what it runs in the background, and so in its children
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code_line = f"{heed}; import sys; from llmcli.cli import main; sys.exit(main(sys.argv[1:]))"
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", code_line, *words, "model=rnn"], stderr=subprocess.PIPE, text=True, env=env
    )
    files = [tmp_path / str(job) / "pids.json" for job in range(2)]
    deadline = time.monotonic() + 20
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    pids = [pid for file in files for pid in json.loads(file.read_text())]
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    deadline = time.monotonic() + 5
    while alive := [pid for pid in pids if _alive(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)
    assert "stopping 2 jobs" in err and "2 of 2 jobs are missing" in err
    assert json.loads((tmp_path / "0" / "job.json").read_text())["exit_code"] != 0


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
