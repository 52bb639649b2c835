"""Run folders: create, find, list, delete.

runs/<data>-<model>/<time>/ holds config.yaml, checkpoints/, tokenizer/, metrics.csv, metrics.json, curves.png, log.txt
and status.json ({"state": "running|completed|interrupted|failed", ...}, rewritten every few seconds).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from llmcli import files
from llmcli.errors import CheckpointError, InputError

ROOT = Path("runs")
RUN_DIR_VARIABLE = "LLM_RUN_DIR"  # how rank 0 tells the other ranks of one launch
Purpose = Literal["use", "resume"]


def create(*, data: str, model: str, given: str | None) -> Path:
    """The folder of a new run, made now: `given`, or runs/<data>-<model>/<time>, unique.

    All ranks of one launch get the folder of the first. A folder whose run ended before its first checkpoint may be
    taken again. Raises InputError when `given` already holds a run or the folder cannot be written.
    """
    decided = os.environ.get(RUN_DIR_VARIABLE)
    if decided and "LOCAL_RANK" in os.environ:
        return Path(decided)
    if given:
        folder = Path(given)
        if _is_run(folder) and summarise(folder).state == "running":
            raise InputError(f"{folder} holds a run that is going on", "another hydra.run.dir= starts beside it")
        if any(folder.glob("checkpoints/*.ckpt")):
            raise InputError(
                f"{folder} already holds a run",
                f"llm train resume={folder} continues it; another hydra.run.dir= starts beside it",
            )
        _make(folder, exist_ok=True)
    else:
        # the names may come from a file, and an option may stand in a folder of its group
        base = ROOT / re.sub(r"[^\w.-]", "-", f"{data}-{model}") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder, n = base, 1
        while True:
            try:
                _make(folder, exist_ok=False)
                break
            except FileExistsError:  # two runs in one second
                n += 1
                folder = base.with_name(f"{base.name}_{n}")
    os.environ[RUN_DIR_VARIABLE] = str(folder.resolve())
    return folder


def _make(folder: Path, *, exist_ok: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        if isinstance(err, FileExistsError) and not exist_ok:
            raise
        raise InputError(
            f"cannot write the run folder {folder}: {err.strerror}", "hydra.run.dir=PATH puts it elsewhere"
        ) from err


def find(root: Path = ROOT) -> list[Path]:
    """Every run folder below `root`, oldest first."""
    if not root.is_dir():
        return []
    found = [path.parent for path in root.rglob("config.yaml") if _is_run(path.parent)]
    return sorted(found, key=lambda folder: ((folder / "config.yaml").stat().st_mtime, str(folder)))


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "status.json").is_file()


def begin(folder: Path, config: dict[str, Any], choices: Mapping[str, str], *, start: Path | None = None) -> None:
    """config.yaml, complete and resolved, a first status.json, and the checkpoints folder.

    From here on it is a run to `llm runs`, even if it dies before its first step. start: a checkpoint from elsewhere
    that a new run goes on from, and its best.ckpt until a validation is better.
    """
    from omegaconf import OmegaConf

    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    files.write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)).encode())
    known = files.read_json(folder / "status.json")
    here = {"state": "running", "pid": os.getpid(), "host": platform.node(), "choices": dict(choices)}
    files.write_json(folder / "status.json", {**known, **here})
    if start is not None:
        files.write_atomic(folder / "checkpoints" / "best.ckpt", start.read_bytes())


def resolve(ckpt: str | None, purpose: Purpose, root: Path = ROOT) -> Path:
    """The checkpoint file that `ckpt` means: a file, a run folder, `latest` or None (both: the latest run).

    A folder means checkpoints/best.ckpt for use and checkpoints/last.ckpt for resume, or the other where only that is.
    """
    if ckpt in (None, "latest"):
        runs = [run for run in find(root) if any(run.glob("checkpoints/*.ckpt"))]
        if not runs:
            raise CheckpointError(
                f"there is no run with a checkpoint in {root.resolve()}",
                "llm train makes one; or name a run folder or file: ckpt=PATH",
            )
        path = runs[-1]
    else:
        path = Path(str(ckpt))
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"there is no run or checkpoint {path}", "llm runs lists the runs")
    names = ("best.ckpt", "last.ckpt") if purpose == "use" else ("last.ckpt", "best.ckpt")
    for name in names:
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    if not (path / "config.yaml").is_file():
        raise CheckpointError(f"{path} is not a run folder", "llm runs lists the runs")
    raise CheckpointError(
        f"{path} has no checkpoint yet: a run saves its first one at its first validation",
        f"if it has ended, hydra.run.dir={path} may be used again, and llm runs delete {path} removes it",
    )


def folder_of(checkpoint: Path) -> Path | None:
    """The run folder around a checkpoint file, None for a file on its own."""
    place = checkpoint.resolve().parent
    return place.parent if place.name == "checkpoints" and (place.parent / "config.yaml").exists() else None


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of `llm runs`."""

    id: str
    task: str
    model: str
    data: str
    state: str
    step: int | None
    monitor: str  # the figure that the run is judged by
    best: float | None
    size_mb: float
    modified: float


def summarise(folder: Path) -> Summary:
    status = files.read_json(folder / "status.json")
    choices = status.get("choices", {})
    state = status.get("state", "?")
    if state == "running" and not _alive(status.get("pid"), status.get("host"), folder):
        state = "killed"  # it never got to say how it ended
    size = sum(p.stat().st_size for p in {q.stat().st_ino: q for q in folder.rglob("*") if q.is_file()}.values())
    return Summary(
        id=str(folder),
        task=str(choices.get("task", "?")),
        model=str(choices.get("model", "?")),
        data=str(choices.get("data", "?")),
        state=state,
        step=status.get("step"),
        monitor=str(status.get("monitor", "?")),
        best=status.get("best"),
        size_mb=size / 1e6,
        modified=(folder / "status.json").stat().st_mtime,
    )


def _alive(pid: int | None, host: str | None, folder: Path) -> bool:
    """Whether the process that writes status.json is still there; from another machine, whether it wrote lately.

    So too on Windows, where the question would be a Ctrl-C to that process.
    """
    if host != platform.node() or not pid or os.name != "posix":
        return time.time() - (folder / "status.json").stat().st_mtime < 120
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def delete(folder: Path) -> None:
    """Remove a run folder. Raises InputError when it is no run folder, so that nothing else can be lost."""
    if not _is_run(folder):
        raise InputError(f"{folder} is not a run folder", "llm runs lists them")
    shutil.rmtree(folder)
