"""How many rows of a batch fit into memory: found once for each model and machine, remembered, written down."""

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
# what memory depends on; numbers of steps, rates and the data's place do not count
_TRAINER = ("precision", "compile", "loss_chunk", "checkpoint_activations")


def begin(task: Task, settings: TrainerSettings, cfg: DictConfig, *, device: str, ranks: int) -> None:
    """Give the task its `trainer.micro_batch`, with "auto" what was found for the same model on the same machine.

    What is found is written into the config. Raises InputError for a task or a launch that cannot take batches apart.
    """
    asked = settings.micro_batch
    if asked is None:
        return
    if not task.rows_apart or task.carries_state:
        raise InputError(
            f"trainer.micro_batch={asked}: the batches of this task and model cannot be taken apart",
            "a smaller batch.size and as much more trainer.accumulate",
        )
    if ranks > 1:
        raise InputError(
            f"trainer.micro_batch={asked} is for one process, and there are {ranks}",
            "a smaller batch.size and as much more trainer.accumulate",
        )
    if settings.strategy != "auto":
        raise InputError(
            f"trainer.micro_batch={asked} is for one process, and trainer.strategy={settings.strategy} for several",
            "trainer.strategy=auto",
        )
    if asked == "auto":
        path = _path(cfg, device)
        found = files.read_json(path).get("rows", asked)
        if found is None or (isinstance(found, int) and found > 0):
            cfg.trainer.micro_batch = asked = found
            rows = "null" if found is None else found
            ui.note(f"trainer.micro_batch={rows}, as found before for this model and machine ({path})")
    task.micro_batch = asked


def follow(task: Task, settings: TrainerSettings, cfg: DictConfig, *, device: str, folder: Path) -> None:
    """From here on, what the task finds is said, remembered and part of the run's config, also of its checkpoints."""

    def changed(rows: int | None, out_of_memory: bool) -> None:
        why = "out of memory: from here on" if out_of_memory else "trainer.micro_batch=auto:"
        if rows is None:
            ui.note(f"{why} all rows of a batch go through the model together (trainer.micro_batch=null)")
        else:
            at_a_time = "1 row goes" if rows == 1 else f"{rows:,} rows go"
            same = f"the batch stays as it is (trainer.micro_batch={rows})"
            ui.note(f"{why} {at_a_time} through the model at a time; {same}")
        if settings.micro_batch == "auto":
            path = _path(cfg, device)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, {"rows": rows})
        with open_dict(cfg):  # a run of an earlier version has no such key
            cfg.trainer.micro_batch = rows
        plain = configs.resolved(cfg)
        task.run_state = {**task.run_state, "config": plain}
        files.write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)).encode())

    task.on_micro_batch = changed


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
