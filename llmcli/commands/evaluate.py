"""llm eval: score a run on a split of its own data or of other text."""

from __future__ import annotations

import time
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmcli import config as configs
from llmcli import runs, ui
from llmcli.errors import InputError
from llmcli.schema import mismatch


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    from llmcli import checkpoint
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
        split=cfg.split,
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


def score(
    loaded: Any,
    *,
    data: DictConfig | None,
    split: str | None,
    stride: int | None,
    batch_size: int | None,
    accelerator: str,
    progress: bool,
) -> dict[str, Any]:
    """Figures of a loaded run on `split`, of `data` where given (tokenized with the run's own tokenizer).

    split None: val; of `data` that is split by fractions the whole text, since none of it was trained on here. stride:
    tokens between overlapping windows; None: windows side by side. Raises InputError for an unknown split.
    """
    import torch

    from llmcli.assembly import prepare_as, prepare_data
    from llmcli.evaluation import evaluate
    from llmcli.trainer import accelerator_of

    saved = OmegaConf.create(loaded.config)
    if data is None:
        prepared = prepare_as(saved, loaded.tokenizer)
    else:
        saved.data = data
        configs.validate(OmegaConf.create({"data": data}))
        if split is None and "val_fraction" in data:
            saved.data.val_fraction = saved.data.test_fraction = 0.0
            split = "train"
        prepared = prepare_data(saved, loaded.tokenizer)
    whole = split == "train" and prepared.splits == ("train",)
    split = split or "val"
    if split not in prepared.splits:
        raise InputError(f"there is no split {split!r}", f"this data has: {', '.join(prepared.splits)}")
    module = configs.build(saved.batch, trusted=configs.trusted())(
        prepared=prepared, seed=int(saved.seed), contiguous=bool(getattr(loaded.task, "carries_state", False))
    )
    loader = module.eval_loader(split, stride=stride, size=batch_size)
    kind, _ = accelerator_of(accelerator, 1, key="accelerator")
    stats = prepared.manifest["splits"][split]
    with ui.Meter() as meter:
        figures: dict[str, Any] = evaluate(
            loaded.task,
            loader,
            device=torch.device(kind),
            text={unit: float(stats[unit]) for unit in ("bytes", "characters")},
            on_batch=(lambda n: meter("evaluating", n, stats["tokens"])) if progress else None,
        )
    figures.update(split="all" if whole else split, tokens=stats["tokens"], unknown=stats.get("unknown", 0))
    return figures


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
