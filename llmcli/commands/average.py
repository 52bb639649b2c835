"""llm average: the mean of the last checkpoints of a run, as a checkpoint of its own."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from llmcli import runs, ui
from llmcli.errors import InputError
from llmcli.schema import mismatch


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    from llmcli import averaging, checkpoint

    if wrong := mismatch(cfg.last, int):
        raise InputError(f"last: {wrong}")
    path = runs.resolve(cfg.ckpt, "resume")
    folder = runs.folder_of(path)
    if folder is None:
        raise InputError(f"{path} lies in no run folder, whose checkpoints could be averaged", "ckpt=RUN names one")
    if cfg.ckpt in (None, "latest"):
        ui.say("run", str(folder))
    files = averaging.newest(folder, cfg.last)
    target = folder / "checkpoints" / "average.ckpt" if cfg.to is None else Path(str(cfg.to))
    _check_target(target, own=cfg.to is None)
    content = averaging.average(files)
    checkpoint.save(content, target)
    steps = content["llm"]["config"]["averaged"]["steps"]
    if cfg.json:
        ui.out_json({"path": str(target), "steps": steps})
    else:
        ui.note(f"the mean of steps {', '.join(f'{step:,}' for step in steps)} is {target}")
        ui.note(f"score it with: llm eval ckpt={target}")
    return 0


def _check_target(target: Path, *, own: bool) -> None:
    """Raises InputError for a folder, and for a file that something else may have written."""
    if target.is_dir():
        raise InputError(f"to={target} is a folder", f"to={target / 'average.ckpt'} names a file in it")
    if target.exists() and not own:
        raise InputError(f"to={target} is there already", "another name, or delete it")
