"""How much of a batch fits into memory: found once for each model and machine, remembered, written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from llmcli import config as configs
from llmcli import files, ui
from llmcli.data.cache import cache_root, digest
from llmcli.errors import InputError
from llmcli.tasks.base import Task
from llmcli.trainer import TrainerSettings

_FOLDER = "micro_batches"
_KEYS = {"rows": "micro_batch", "tokens": "micro_tokens"}
# what memory depends on; numbers of steps, rates and the data's place do not count
_TRAINER = ("precision", "compile", "loss_chunk", "checkpoint_activations")


def begin(task: Task, settings: TrainerSettings, cfg: DictConfig, *, device: str, ranks: int, one_length: bool) -> None:
    """Give the task its `trainer.micro_batch` and `micro_tokens`, with "auto" what was found for the same model on the
    same machine: rows where the rows of all batches have `one_length`, otherwise tokens.

    What is found is written into the config. Raises InputError for a task or a launch that cannot take batches apart.
    """
    task.one_length = one_length
    rows, tokens = settings.micro_batch, settings.micro_tokens
    if rows is None and tokens is None:
        return
    asked = f"trainer.micro_tokens={tokens}" if rows is None else f"trainer.micro_batch={rows}"
    if rows == "auto" and tokens is not None:
        raise InputError(f"{asked} finds what trainer.micro_tokens={tokens} says", "leave out one of them")
    if not task.rows_apart or task.carries_state:
        raise InputError(
            f"{asked}: the batches of this task and model cannot be taken apart",
            "a smaller batch.size and as much more trainer.accumulate",
        )
    if ranks > 1:
        raise InputError(
            f"{asked} is for one process, and there are {ranks}",
            "a smaller batch.size and as much more trainer.accumulate",
        )
    if settings.strategy != "auto":
        raise InputError(
            f"{asked} is for one process, and trainer.strategy={settings.strategy} for several",
            "trainer.strategy=auto",
        )
    task.micro_batch, task.micro_tokens = rows, tokens
    if rows == "auto":
        path, unit = _path(cfg, device), _unit(task)
        found = files.read_json(path).get(unit, "auto")
        if found is None or (isinstance(found, int) and found > 0):
            task.micro_batch = None
            setattr(task, _KEYS[unit], found)
            _write(task, cfg)
            ui.note(f"{_said(task)}, as found before for this model and machine ({path}; without it, it is found anew)")


def follow(task: Task, settings: TrainerSettings, cfg: DictConfig, *, device: str, folder: Path) -> None:
    """From here on, what the task finds is said, remembered and part of the run's config, also of its checkpoints."""

    def changed(out_of_memory: bool) -> None:
        why = "out of memory: from here on" if out_of_memory else "trainer.micro_batch=auto:"
        unit = _unit(task)
        found = getattr(task, _KEYS[unit])
        if found is None:
            ui.note(f"{why} all rows of a batch go through the model together ({_said(task)})")
        else:
            what = unit[:-1] if found == 1 else unit
            padded = "" if task.one_length else ", with their padding,"
            go = "goes" if found == 1 else "go"
            ui.note(
                f"{why} {found:,} {what}{padded} {go} through the model at a time; "
                f"the batch stays as it is ({_said(task)})"
            )
        if settings.micro_batch == "auto":
            path = _path(cfg, device)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, {unit: found})
        _write(task, cfg)
        plain = configs.resolved(cfg)
        task.run_state = {**task.run_state, "config": plain}
        files.write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)).encode())

    task.on_micro_batch = changed


def _unit(task: Task) -> str:
    return "rows" if task.one_length else "tokens"


def _said(task: Task) -> str:
    """The key that says so on the command line."""
    found = getattr(task, _KEYS[_unit(task)])
    return "trainer.micro_batch=null" if found is None else f"trainer.{_KEYS[_unit(task)]}={found}"


def _write(task: Task, cfg: DictConfig) -> None:
    with open_dict(cfg):  # a run of an earlier version has no such keys
        cfg.trainer.micro_batch, cfg.trainer.micro_tokens = task.micro_batch, task.micro_tokens


def _path(cfg: DictConfig, device: str) -> Path:
    """Where the rows that fit are remembered: by all that the memory of a step depends on."""
    plain = configs.resolved(cfg)
    parts = ("model", "task", "finetune", "optimizer", "batch", "facts")
    depends: dict[str, Any] = {name: plain.get(name) for name in parts}
    depends["trainer"] = {name: plain["trainer"].get(name) for name in _TRAINER}
    depends["machine"] = _machine(device)
    return cache_root() / _FOLDER / f"{digest(depends)}.json"


def _machine(device: str) -> list[Any]:
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return [properties.name, properties.total_memory]
    return [device]
