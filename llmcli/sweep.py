"""Sweeps: `llm train -m model=rnn,lstm` as one process per job, with a live table, a ranking and a way to go on.

A job leaves nothing behind for the next (no memory, no environment, no processes), one that fails does not stop the
others, and a sweep run again into the same folder runs only what is missing, from its last checkpoint where it has one.
A job's folder is its run folder; beside the run's own files it holds `job.json` (overrides and exit code) and `job.log`
(its stdout and stderr).
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
import subprocess
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from llmcli import config, files, ui
from llmcli.errors import InputError

_POLL_SECONDS = 0.1
_PLUGIN = "hydra_plugins.llmcli"  # Hydra takes launchers from below this name only
# What ties a process to a run that is already going on; a job starts its own.
_INHERITED = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "LLM_RUN_DIR")
_INHERITED_PREFIXES = ("MASTER_", "PL_", "TORCHELASTIC_", "HYDRA_")
_SWEEP_ONLY = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweep", "hydra.run.dir")

State = Literal["waiting", "running", "done", "kept", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """By which figure a run is judged, its best value (None where it has none that is finite), and its perplexity."""

    monitor: str
    higher_is_better: bool
    best: float | None
    perplexity: float | None

    @classmethod
    def of(cls, written: Mapping[str, Any]) -> Self:
        """From metrics.json or status.json."""
        return cls(
            monitor=str(written.get("monitor", "")),
            higher_is_better=bool(written.get("higher_is_better", False)),
            best=_finite(written.get("best")),
            perplexity=_finite(written.get("perplexity")),
        )


@dataclass
class Job:
    """One combination of a sweep. `kept`: it was done by an earlier run of the same sweep."""

    number: int
    overrides: list[str]
    folder: Path
    state: State = "waiting"
    exit_code: int | None = None
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        return self.state in ("done", "kept")

    def name(self, common: frozenset[str] = frozenset()) -> str:
        """Its overrides, without those that all jobs of the sweep have in `common`."""
        own = [each for each in self.overrides if each not in common]
        return " ".join(own) or "(no overrides)"

    def verdict(self) -> Verdict:
        """How the run ended up; without a best value while it has not."""
        return Verdict.of(files.read_json(self.folder / "metrics.json"))

    def last_line(self) -> str:
        """Why a job failed: the last error message in its log, or else the last line that is not empty."""
        try:
            with (self.folder / "job.log").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 65536))
                text = log.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        complaints = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (complaints or lines or [""])[-1]


class ProcessLauncher(Launcher):
    """Runs each job as `ARGV COMMAND overrides... hydra.run.dir=FOLDER`, `n_jobs` at a time.

    grace: seconds between asking a job to stop and killing it. argv: the program, this one by default.
    """

    __module__ = _PLUGIN
    # of all launches since `run` began; on the class because Hydra makes the launcher itself
    jobs: ClassVar[list[Job]] = []
    sweep_dir: ClassVar[Path] = Path()

    def __init__(self, *, n_jobs: int, grace: float, argv: Sequence[str] = (sys.executable, "-m", "llmcli")) -> None:
        if n_jobs < 1:
            raise InputError(f"hydra.launcher.n_jobs ({n_jobs}) must be at least 1")
        self.n_jobs = n_jobs
        self.grace = grace
        self.argv = list(argv)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs, returns = [], []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            cfg = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(cfg):
                cfg.hydra.job.id = str(number)
                cfg.hydra.job.num = number
            folder = Path(str(cfg.hydra.sweep.dir), str(cfg.hydra.sweep.subdir))
            jobs.append(Job(number, list(overrides), folder))
            returns.append(JobReturn(overrides=list(overrides), cfg=cfg, working_dir=str(folder)))
        ProcessLauncher.jobs += jobs
        ProcessLauncher.sweep_dir = Path(str(self.config.hydra.sweep.dir))
        self.run(jobs, command=str(self.config.hydra.job.config_name), more=self._shared())
        for job, result in zip(jobs, returns, strict=True):
            # a failed job is ours to report; Hydra would print a traceback and stop
            result.status = JobStatus.COMPLETED
            result.return_value = job.verdict().best
        return returns

    def run(self, jobs: Sequence[Job], *, command: str, more: Sequence[str] = ()) -> None:
        """Run what is not done yet. On Ctrl-C or SIGTERM all jobs are stopped, then the exception goes on."""
        for job in jobs:
            _recall(job)
        waiting = deque(job for job in jobs if job.state == "waiting")
        slots = deque(range(min(self.n_jobs, max(1, len(waiting)))))
        devices = _visible_devices() if waiting else []
        running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
        common = _common(jobs)
        headers = ("job", "overrides", "status", "step", "validation", "left")
        with ui.LiveTable(headers, right=(3, 4, 5)) as table, _termination_raises():
            try:
                while waiting or running:
                    while waiting and slots:
                        slot, job = slots.popleft(), waiting.popleft()
                        argv = [*self.argv, command, *_what(job), "hydra.mode=RUN", *more]
                        running[slot] = job, _start(job, argv, self._environment(slot, devices))
                        if not table.visible:
                            ui.note(f"job {job.number} started   {job.name(common)}")
                    for slot, (job, process) in list(running.items()):
                        if process.poll() is not None:
                            del running[slot]
                            slots.append(slot)
                            _finish(job, process)
                            if not table.visible:
                                ui.note(_ending(job, common))
                    table.update([_row(job, common) for job in jobs])
                    time.sleep(_POLL_SECONDS)
            finally:
                _stop(list(running.values()), self.grace)

    def _environment(self, slot: int, devices: Sequence[str]) -> dict[str, str]:
        """The environment of a job: nothing of a run that goes on here, its share of GPUs and processors."""
        env = {
            name: value
            for name, value in os.environ.items()
            if name not in _INHERITED and not name.startswith(_INHERITED_PREFIXES)
        }
        if devices and self.n_jobs > 1:
            env["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        if not devices and self.n_jobs > 1:
            env.setdefault("OMP_NUM_THREADS", str(max(1, _processors() // self.n_jobs)))
        return env

    def _shared(self) -> list[str]:
        """What every job gets from the sweep's own command line: settings of Hydra's, folders of YAML."""
        given = OmegaConf.to_container(self.config.hydra.overrides.hydra, resolve=False)
        assert isinstance(given, list)
        kept = [str(each) for each in given if not str(each).lstrip("+~").startswith(_SWEEP_ONLY)]
        folders = [
            source.path for source in self.config.hydra.runtime.config_sources if source.provider == "command-line"
        ]
        return [*kept, *(word for folder in folders for word in ("--config-dir", folder))]


def run(command: str, overrides: Sequence[str], *, config_dirs: Sequence[str] = ()) -> int:
    """Run a sweep through Hydra's sweeper and our launcher; 0, or 1 where a job failed. Raises InputError."""
    as_json = any(each.lstrip("+") in ("json=true", "json=True") for each in overrides)
    overrides = [each for each in overrides if not each.lstrip("+").startswith("json=")]
    for each in overrides:
        if each.startswith("hydra/launcher=") and each != "hydra/launcher=process":
            raise InputError(f"{each}: each job of a sweep is a process of its own", hint="leave hydra/launcher= out")
    _register()
    ProcessLauncher.jobs = []
    try:
        config.through_hydra(command, overrides, ["--multirun"], config_dirs=config_dirs)
    finally:
        if ProcessLauncher.jobs:
            again = _again(command, overrides, config_dirs, ProcessLauncher.sweep_dir)
            report(ProcessLauncher.jobs, again=again, as_json=as_json)
    return 0 if all(job.finished for job in ProcessLauncher.jobs) else 1


def report(jobs: Sequence[Job], *, again: str, as_json: bool) -> None:
    """The ranking by what the task monitors, then what failed and why, then the command that runs what is missing."""
    ranked = sorted((job for job in jobs if job.finished), key=_rank)
    failed = [job for job in jobs if job.state == "failed"]
    common = _common(jobs)
    if as_json:
        ordered = [*ranked, *(job for job in jobs if not job.finished)]
        ui.out_json({"jobs": [_record(job) for job in ordered], "failed": len(failed), "again": again})
        return
    if ranked:
        verdicts = [job.verdict() for job in ranked]
        named = " / ".join(dict.fromkeys(v.monitor.replace("_", " ") for v in verdicts if v.monitor)) or "best"
        rows = [
            (place, _figure(verdict.best), _figure(verdict.perplexity), job.name(common), job.folder)
            for place, (job, verdict) in enumerate(zip(ranked, verdicts, strict=True), start=1)
        ]
        ui.table(rows, ("", named, "perplexity", "overrides", "run"), right=(0, 1, 2), stdout=True)
    for job in failed:
        ui.error(f"job {job.number} ({job.name(common)}) ended with exit code {job.exit_code}", job.last_line())
        ui.note(f"       {job.folder / 'job.log'}")
    if len(ranked) < len(jobs):
        ui.note(f"{len(jobs) - len(ranked)} of {len(jobs)} jobs are missing; this runs only those:\n  {again}")


def _register() -> None:
    """Make the launcher known to Hydra, which looks for it by module name, without a package `hydra_plugins`."""
    try:
        importable = __import__("hydra_plugins")
    except ImportError:
        importable = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        importable.__path__ = []
    sys.modules[_PLUGIN] = sys.modules[__name__]
    setattr(importable, _PLUGIN.rpartition(".")[2], sys.modules[__name__])
    Plugins.instance().register(ProcessLauncher)


def _what(job: Job) -> list[str]:
    """The overrides that make the job, or continue it where an earlier attempt left a checkpoint."""
    folder = config.quoted(str(job.folder))
    if _checkpoint(job).is_file():
        return [f"resume={folder}"]
    return [*job.overrides, f"hydra.run.dir={folder}", f"hydra.job.num={job.number}"]


def _checkpoint(job: Job) -> Path:
    return job.folder / "checkpoints" / "last.ckpt"


def _start(job: Job, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    job.folder.mkdir(parents=True, exist_ok=True)
    if not _checkpoint(job).is_file():
        for stale in ("config.yaml", "metrics.json", "status.json"):  # of an attempt with nothing to go on from
            (job.folder / stale).unlink(missing_ok=True)
    _note_down(job)
    job.state, job.started = "running", time.monotonic()
    with (job.folder / "job.log").open("wb") as log:
        return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _finish(job: Job, process: subprocess.Popen[bytes]) -> None:
    _end_group(process, by_force=True)  # workers that outlived their job
    job.exit_code, job.seconds = process.returncode, time.monotonic() - job.started
    job.state = "done" if process.returncode == 0 else "failed"
    _note_down(job)


def _stop(running: Sequence[tuple[Job, subprocess.Popen[bytes]]], grace: float) -> None:
    """Ask all to save and end, wait, then kill what is left; a second Ctrl-C does not wait."""
    if running:
        ui.note(f"stopping {len(running)} jobs, which may save themselves first; Ctrl-C again kills them")
    for _, process in running:
        _end_group(process, by_force=False)
    deadline = time.monotonic() + grace
    try:
        for _, process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for job, process in running:
            _end_group(process, by_force=True)
            process.wait()
            job.exit_code, job.state = process.returncode, "stopped"
            _note_down(job)


def _end_group(process: subprocess.Popen[bytes], *, by_force: bool) -> None:
    """Ask a job and the workers it started to end, or kill them. Windows knows neither groups nor asking."""
    if os.name != "posix":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL if by_force else signal.SIGTERM)


@contextlib.contextmanager
def _termination_raises() -> Iterator[None]:
    """SIGTERM and SIGHUP end the sweep as Ctrl-C does, through its clean-up; exit code 128 + signal."""

    def leave(number: int, _frame: types.FrameType | None) -> None:
        raise SystemExit(128 + number)

    before: dict[signal.Signals, Callable[..., Any] | int | None] = {}
    for number in (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])):  # Windows has none
        with contextlib.suppress(ValueError):  # not the main thread: signals are not ours
            before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


def _recall(job: Job) -> None:
    """Take over what an earlier run of this sweep has finished. Raises InputError if the folder is another job's."""
    noted = files.read_json(job.folder / "job.json")
    if not noted:
        return
    if noted.get("overrides") != job.overrides:
        other = " ".join(map(str, noted.get("overrides", [])))
        raise InputError(
            f"{job.folder} holds another job ({other}) than {job.name()}",
            hint="give another hydra.sweep.dir, or repeat that sweep's command to run what it misses",
        )
    if noted.get("exit_code") == 0:
        job.state, job.exit_code, job.seconds = "kept", 0, float(noted.get("seconds", 0.0))


def _note_down(job: Job) -> None:
    noted = {"overrides": job.overrides, "exit_code": job.exit_code, "seconds": round(job.seconds, 3)}
    files.write_json(job.folder / "job.json", noted)


def _processors() -> int:
    """How many this process may use; macOS and Windows only say how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each.strip() for each in visible.split(",") if each.strip() not in ("", "-1")]
    import torch  # takes seconds; a sweep is the only one here that needs it

    return [str(index) for index in range(torch.cuda.device_count())]


def _row(job: Job, common: frozenset[str]) -> tuple[object, ...]:
    status = files.read_json(job.folder / "status.json") if job.state in ("running", "done", "kept") else {}
    step, total = status.get("step"), status.get("total_steps")
    steps = "" if step is None else f"{step}/{total}" if total else f"{step}"
    left = status.get("seconds_left") if job.state == "running" else None
    value = job.verdict().best if job.finished else _finite(status.get("last"))
    return job.number, job.name(common), job.state, steps, _figure(value, ""), "" if left is None else ui.clock(left)


def _ending(job: Job, common: frozenset[str]) -> str:
    if job.state == "done":
        verdict = job.verdict()
        scored = "" if verdict.best is None else f"   {verdict.monitor} {verdict.best:.4f}"
        return f"job {job.number} done in {ui.clock(job.seconds)}{scored}   {job.name(common)}"
    return f"job {job.number} failed with exit code {job.exit_code}   {job.name(common)}   {job.last_line()}"


def _record(job: Job) -> dict[str, Any]:
    verdict = job.verdict()
    return {
        "job": job.number,
        "overrides": job.overrides,
        "state": job.state,
        "exit_code": job.exit_code,
        "run": str(job.folder),
        "monitor": verdict.monitor,
        "best": verdict.best,
        "perplexity": verdict.perplexity,
        "seconds": round(job.seconds, 3),
        "error": job.last_line() if job.state == "failed" else None,
    }


def _rank(job: Job) -> tuple[bool, str, float, int]:
    """The best first, of each monitor where jobs differ in it; what has no figure last."""
    verdict = job.verdict()
    if verdict.best is None:
        return True, "", 0.0, job.number
    return False, verdict.monitor, -verdict.best if verdict.higher_is_better else verdict.best, job.number


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _common(jobs: Sequence[Job]) -> frozenset[str]:
    """The overrides that tell no job from another."""
    if len(jobs) < 2:
        return frozenset()
    return frozenset.intersection(*(frozenset(job.overrides) for job in jobs))


def _again(command: str, overrides: Sequence[str], config_dirs: Sequence[str], folder: Path) -> str:
    given = [each for each in overrides if not each.startswith("hydra.sweep.dir=")]
    dirs = [word for each in config_dirs for word in ("--config-dir", each)]
    return shlex.join(["llm", command, "-m", *given, f"hydra.sweep.dir={folder}", *dirs])


def _figure(value: float | None, missing: str = "-") -> str:
    return missing if value is None else f"{value:.4f}"
