"""Write and read checkpoints: the only torch.load of the program.

A checkpoint is Lightning's dictionary plus `llm`: {format, config, choices, tokenizer, data, versions, seed,
tokens_seen}. It holds tensors and plain containers alone, so nothing in it can run code, and it is written beside its
target, synced and renamed, so a full disk or a kill never costs the previous one.
"""

from __future__ import annotations

import platform
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from pytorch_lightning.plugins.io import CheckpointIO

import llmcli
from llmcli import config as configs
from llmcli import files
from llmcli.errors import CheckpointError, LLMError
from llmcli.tokenizers import store
from llmcli.tokenizers.base import Tokenizer
from llmcli.trust import check_plain

FORMAT = 1


def save(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint in one step. Raises LLMError when the disk is full or the folder cannot be written."""
    try:
        files.write_atomic(path, lambda file: torch.save(content, file))
    except (OSError, RuntimeError) as err:
        # torch.save wraps a full disk in a RuntimeError; the OSError is in its context
        cause = err if isinstance(err, OSError) else err.__context__
        if not isinstance(cause, OSError):
            raise
        raise LLMError(
            f"cannot write {path}: {cause.strerror or cause}",
            "free some space or choose another folder with hydra.run.dir=PATH; what was saved before is intact",
        ) from err


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's own writer goes through the system's temporary folder, where a full disk destroyed the good file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's dictionary on the CPU; its config is plain, with nothing left to resolve.

    Raises CheckpointError when the file is missing, truncated, not ours, or would have to run code to load.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}", "llm runs lists the runs")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"cannot read {path}: it is truncated or not a checkpoint", "only checkpoints written by llm are loaded"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:
        reason = (
            "it holds objects that would run code when loaded"
            if "weights_only" in str(err).lower()
            else "it is truncated or not a checkpoint"
        )
        raise CheckpointError(f"cannot read {path}: {reason}", "only checkpoints written by llm are loaded") from err
    if not isinstance(content, dict) or not isinstance(content.get("llm"), dict) or "state_dict" not in content:
        raise CheckpointError(
            f"{path} is not a checkpoint of llm", "ckpt= takes a run folder or a file written by llm train"
        )
    written = content["llm"].get("format")
    if written != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {written!r}, this llm ({llmcli.__version__}) reads format {FORMAT}",
            "use the version of llm that wrote it: see its config.yaml",
        )
    _check_parts(path, content["llm"])
    check_plain(content["llm"]["config"])
    return content


def _check_parts(path: Path, llm: dict[str, Any]) -> None:
    """Raises CheckpointError unless all that `whole` writes is there."""
    config, data = llm.get("config"), llm.get("data")
    parts = {
        "config": isinstance(config, dict),
        **{
            f"config.{name}": isinstance(config, dict) and isinstance(config.get(name), dict)
            for name in ("data", "tokenizer", "batch", "model", "task", "trainer", "facts")
        },
        "tokenizer": isinstance(llm.get("tokenizer"), dict),
        "data.fingerprint": isinstance(data, dict) and isinstance(data.get("fingerprint"), dict),
    }
    missing = [name for name, there in parts.items() if not there]
    if missing:
        raise CheckpointError(
            f"{path} is not a whole checkpoint: it lacks {missing[0]}",
            "only checkpoints written by llm train can be used",
        )


def whole(
    *,
    config: dict[str, Any],
    choices: Mapping[str, str],
    tokenizer: Tokenizer,
    manifest: dict[str, Any],
    seed: int,
    ranks: int,
) -> dict[str, Any]:
    """What makes a checkpoint stand alone, in plain containers; goes to `Task.run_state`.

    choices: config group -> option, the names by which the run is shown. ranks: the processes that share its batches.
    """
    return {
        "format": FORMAT,
        "config": config,
        "choices": dict(choices),
        "tokenizer": store.to_files(tokenizer),
        "data": {"fingerprint": manifest["source"], "splits": manifest["splits"]},
        "seed": seed,
        "ranks": ranks,
        "versions": {
            "llmcli": llmcli.__version__,
            "torch": str(torch.__version__),
            "pytorch_lightning": version("pytorch-lightning"),
            "python": platform.python_version(),
        },
    }


@dataclass(frozen=True, slots=True)
class Loaded:
    """A run ready to use: its resolved config, its tokenizer, its task with the weights, in eval mode on the CPU.

    trusted: the user's own packages that its config may name.
    """

    path: Path
    config: dict[str, Any]
    tokenizer: Tokenizer
    task: Any
    content: dict[str, Any]
    trusted: tuple[str, ...]


def load(path: Path, *, packages: Sequence[str] = ()) -> Loaded:
    """Read a checkpoint and rebuild its task.

    Raises CheckpointError when the file is broken or its config names a target that is not trusted, or the weights do
    not fit the model that the config describes. packages: of the user's own, trusted beside llmcli and LLM_TRUST.
    """
    content = read(path)
    llm = content["llm"]
    config = llm["config"]
    tokenizer = store.from_files(llm["tokenizer"])
    allowed = configs.trusted(packages)
    saved = OmegaConf.create(config)
    model = configs.build(saved.model, trusted=allowed)
    task = configs.build(saved.task, trusted=allowed)(model=model)
    facts = config["facts"]
    sizes = {"ids": (tokenizer, facts["vocab_size"])}
    if of_sources := facts.get("source_vocab_size"):
        sizes["ids for sources"] = (tokenizer.of_sources, of_sources)
    for what, (each, size) in sizes.items():
        if each.vocab_size != size:
            raise CheckpointError(
                f"{path}: its tokenizer has {each.vocab_size} {what} and its model {size}", "the file mixes two runs"
            )
    try:
        task.load_state_dict(content["state_dict"])
    except RuntimeError as err:
        raise CheckpointError(
            f"{path}: its weights do not fit the model its config describes ({str(err).splitlines()[-1].strip()})",
            "the file was changed, or written by another version of the model's code",
        ) from err
    return Loaded(path=path, config=config, tokenizer=tokenizer, task=task.eval(), content=content, trusted=allowed)
