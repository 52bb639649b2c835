"""llm runs: list, show and delete run folders."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from llmcli import files, runs, ui
from llmcli.errors import InputError


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    root = Path(str(cfg.dir))
    action = str(cfg.action)
    if action == "list":
        return _list(root, bool(cfg.json))
    if action not in ("show", "delete"):
        raise InputError(f"llm runs has no action {action!r}", "it has: list, show RUN, delete RUN")
    if cfg.run is None:
        raise InputError(f"llm runs {action} needs a run folder", "llm runs lists them")
    folder = _folder(str(cfg.run), root)
    return _show(folder, bool(cfg.json)) if action == "show" else _delete(folder, bool(cfg.yes))


def _folder(name: str, root: Path) -> Path:
    for candidate in (Path(name), root / name):
        if (candidate / "config.yaml").is_file() and (candidate / "status.json").is_file():
            return candidate
    if name == "latest" and (found := runs.find(root)):
        return found[-1]
    raise InputError(f"there is no run {name}", "llm runs lists them")


def _list(root: Path, as_json: bool) -> int:
    summaries = [runs.summarise(folder) for folder in runs.find(root)]
    if as_json:
        ui.out_json([asdict(summary) for summary in summaries])
        return 0
    if not summaries:
        ui.note(f"no runs in {root.resolve()}        llm train makes one")
        return 0
    ui.table(
        [
            (
                s.id,
                s.task,
                s.model,
                s.data,
                "" if s.best is None else f"{s.monitor} {s.best:.4f}",
                s.state,
                s.step or "",
                f"{s.size_mb:,.1f}",
            )
            for s in summaries
        ],
        ("run", "task", "model", "data", "best", "status", "step", "MB"),
        right=(4, 6, 7),
        stdout=True,
    )
    return 0


def _show(folder: Path, as_json: bool) -> int:
    status, figures = files.read_json(folder / "status.json"), files.read_json(folder / "metrics.json")
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    if as_json:
        ui.out_json({"run": str(folder), "status": status, "metrics": figures, "files": sizes})
        return 0
    ui.out(str(folder))
    ui.table(
        [
            (key, value)
            for key, value in {**status, **figures}.items()
            if value is not None and not isinstance(value, dict)
        ],
        ("figure", "value"),
        stdout=True,
    )
    ui.table(
        [(name, f"{size / 1e6:,.2f}") for name, size in sizes.items()],
        ("file", "MB"),
        right=(1,),
        stdout=True,
    )
    return 0


def _delete(folder: Path, yes: bool) -> int:
    summary = runs.summarise(folder)
    if summary.state == "running":
        raise InputError(f"{folder} is still running", "stop it first")
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"delete {folder} ({summary.size_mb:,.1f} MB)? It needs --yes where nobody can answer")
        ui.note(f"delete {folder} ({summary.size_mb:,.1f} MB)? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            ui.note("kept")
            return 0
    runs.delete(folder)
    ui.note(f"deleted {folder}")
    return 0
