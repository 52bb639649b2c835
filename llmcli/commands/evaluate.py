"""llm eval: score a run on a split of its own data or of other text."""

from __future__ import annotations

import time
from collections.abc import Sequence

from omegaconf import DictConfig

from llmcli import config as configs
from llmcli import runs, ui
from llmcli.errors import InputError
from llmcli.schema import mismatch


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    from llmcli import checkpoint
    from llmcli.evaluation import score
    from llmcli.trainer import quiet_lightning

    quiet_lightning()
    for name in ("stride", "batch_size"):
        if wrong := mismatch(cfg[name], int | None):
            raise InputError(f"{name}: {wrong}")
    path = runs.resolve(cfg.ckpt, "use")
    if cfg.ckpt in (None, "latest"):
        ui.say("run", str(path))
    loaded = checkpoint.load(path)
    began = time.monotonic()
    figures = score(
        loaded,
        data=cfg.get("data"),
        split=cfg.split or _asked(configs.launch().overrides),
        stride=cfg.stride,
        batch_size=cfg.batch_size,
        accelerator=str(cfg.accelerator),
        progress=True,
    )
    figures["seconds"] = round(time.monotonic() - began, 2)
    figures["ckpt"] = str(path)
    if cfg.json:
        ui.out_json(figures)
    else:
        ui.table(
            [(name, _show(value)) for name, value in figures.items()],
            ("figure", "value"),
            right=(1,),
            stdout=True,
        )
    return 0


def _asked(overrides: Sequence[str]) -> str | None:
    """val where the user said how much of the text that shall be; None leaves it to the data."""
    keys = [each.lstrip("+").partition("=")[0] for each in overrides]
    return "val" if any(key in ("data.val_fraction", "data.test_fraction") for key in keys) else None


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
