"""llm train: compose, prepare, build, fit, sum up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from llmcli import config as configs
from llmcli import runs, ui
from llmcli.errors import InputError

if TYPE_CHECKING:
    from llmcli.initialise import Origin

# What a resumed run may change and then is another run: the way out of a loss that became infinite.
_NO_LONGER_THE_SAME = ("optimizer.", "trainer.clip_norm")
# What it may change besides: how long it goes on, and how it reports.
_CHANGEABLE = (
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.max_tokens",
    "trainer.log_every",
    "callbacks.checkpoints.",
    *_NO_LONGER_THE_SAME,
    "resume",
    "dry_run",
    "json",
    "hydra.",
)


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    from llmcli.fitting import check_pair, with_search
    from llmcli.trainer import quiet_lightning

    quiet_lightning()
    launch = configs.launch()
    if cfg.resume is not None:
        return _resume(cfg, launch)
    choices, origin = launch.choices, None
    if cfg.init is not None:
        from llmcli import initialise

        origin = initialise.find(str(cfg.init))
        cfg, choices = initialise.adopt(cfg, choices, origin, launch.overrides)
    check_pair(cfg, choices)  # first: what does not go together may not even have the keys of the other
    cfg, choices = with_search(cfg, choices)
    configs.validate(cfg)
    return _train(cfg, choices, run_dir=launch.run_dir, origin=origin)


def _resume(cfg: DictConfig, launch: configs.Launch) -> int:
    """Continue exactly: the run's own config, but for a longer budget; in its folder, or a new one for a lone file."""
    from llmcli import checkpoint

    path = runs.resolve(str(cfg.resume), "resume")
    content = checkpoint.read(path)
    folder = runs.folder_of(path)
    if "optimizer_states" not in content:  # see llmcli.averaging
        raise InputError(
            f"{path} holds an average of weights, from which no training goes on",
            f"init={path} begins a new run with them" + (f"; resume={folder} goes on with its own" if folder else ""),
        )
    if folder is not None and launch.run_dir is not None:
        raise InputError(
            f"resume={cfg.resume} goes on in its own folder, not in {launch.run_dir}",
            f"resume={path.name} of a copy that stands alone begins a folder of its own",
        )
    saved = OmegaConf.create(content["llm"]["config"])
    for override in launch.overrides:
        key = override.lstrip("+~").partition("=")[0]
        if not key.startswith(_CHANGEABLE):
            raise InputError(
                f"resume continues a run as it was: {key} cannot change",
                "trainer.max_steps, max_epochs, max_time, max_tokens, clip_norm and optimizer.lr can; "
                "for anything else start a new run",
            )
        if key.startswith(("trainer.", "callbacks.", "optimizer.")):
            before, now = OmegaConf.select(saved, key), OmegaConf.select(cfg, key)
            OmegaConf.update(saved, key, now)
            if before != now and key.startswith(_NO_LONGER_THE_SAME):
                ui.note(f"{key} was {before} and is now {now}: from here on this is no longer the same run")
    saved.json, saved.dry_run = cfg.json, cfg.dry_run
    return _train(
        saved, content["llm"].get("choices", {}), run_dir=launch.run_dir, folder=folder, resumed=(path, content["llm"])
    )


def _train(
    cfg: DictConfig,
    choices: Mapping[str, str],
    *,
    run_dir: str | None,
    folder: Path | None = None,
    resumed: tuple[Path, Mapping[str, Any]] | None = None,
    origin: Origin | None = None,
) -> int:
    """run_dir: where the user wants a new run. folder: of the run that goes on, None for a new one.

    resumed: the checkpoint file to go on from and its `llm` part. origin: the run whose weights a new one begins with.
    """
    from llmcli import assembly, checkpoint
    from llmcli.report import summary
    from llmcli.tokenizers import store
    from llmcli.trainer import build_trainer

    parts = assembly.build(cfg, choices, resumed=resumed[1] if resumed else None, origin=origin)
    if cfg.dry_run:
        summary.introduce(parts)
        summary.dry_run(parts)
        return 0
    start = resumed[0] if resumed and folder is None else None
    if folder is None:
        folder = runs.create(data=str(choices.get("data")), model=str(choices.get("model")), given=run_dir)
    ui.keep_log(folder / "log.txt")
    summary.introduce(parts)
    ui.say("run", str(folder))
    ui.note("")
    plain = configs.resolved(parts.config)
    parts.task.run_state = checkpoint.whole(
        config=plain,
        choices=choices,
        tokenizer=parts.prepared.tokenizer,
        manifest=parts.prepared.manifest,
        seed=int(cfg.seed),
        ranks=parts.ranks,
    )
    history, callbacks, prompt = assembly.callbacks(parts, folder)
    if parts.settings.compile:
        parts.task.compile_inner()
    trainer = build_trainer(parts.settings, callbacks=callbacks, folder=folder)
    if trainer.is_global_zero:
        runs.begin(folder, plain, choices, start=start)
        store.save(parts.prepared.tokenizer, folder / "tokenizer")
    trained = False
    try:
        trainer.fit(
            parts.task, datamodule=parts.data, ckpt_path=str(resumed[0]) if resumed else None, weights_only=True
        )
        trained = True  # whatever comes over the summary
        if trainer.is_global_zero:
            history.write_status("completed")
            try:
                from llmcli import results  # evaluating needs much that training does not: not before the first step

                figures = results.conclude(parts, history, folder=folder)
            except (KeyboardInterrupt, Exception):
                ui.note(f"the run is complete, without its final figures; llm train resume={folder} writes them")
                raise
            summary.sum_up(parts, history, figures, folder=folder, prompt=prompt)
            if cfg.json:
                ui.out_json(figures)
    except SystemExit as stop:
        if stop.code == 1:  # how Lightning leaves after a second Ctrl-C
            history.write_status("interrupted")
            raise KeyboardInterrupt from None
        raise
    except Exception as err:
        if not trained:
            history.write_status("failed")
        ui.log(f"error: {type(err).__name__}: {err}")
        raise
    finally:
        ui.keep_log(None)
    return 0
