"""llm bench: what this machine does in training, generation, preparing and start-up."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from llmcli import config as configs
from llmcli import ui
from llmcli.errors import InputError
from llmcli.mistakes import did_you_mean, nearest
from llmcli.schema import mismatch

if TYPE_CHECKING:
    from llmcli.assembly import Parts
    from llmcli.bench.measuring import Stopwatch

WHAT = ("train", "generate", "prepare", "start")
COMPARE = ("bare", "transformers")
_NOT_HERE = ("init", "resume", "dry_run")  # keys of llm train


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    _check(cfg)
    from llmcli.bench import machine, measuring, tables
    from llmcli.trainer import quiet_lightning

    quiet_lightning()
    if warning := measuring.busy():
        ui.warn(warning)
    result: dict[str, Any] = {"command": ["llm", *sys.argv[1:]], "rounds": cfg.rounds, "clock": cfg.clock}
    result |= machine.describe()
    with tempfile.TemporaryDirectory() as folder:
        if {"train", "generate"} & set(cfg.what):
            result |= _model(cfg, Path(folder))
    if "prepare" in cfg.what:
        result["prepare"] = _prepare(cfg)
    if "start" in cfg.what:
        from llmcli.bench import starting

        ui.note("start-up: each command several times")
        result["start"] = starting.measure(rounds=cfg.rounds)[cfg.clock]
    if cfg.json:
        ui.out_json(result)
    else:
        tables.show(result)
    if warning := measuring.unsteady(tables.decisive(result)):
        ui.warn(warning)
    return 0


def _model(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Ceilings, training and generation of the model of the config, on random tokens."""
    import torch

    from llmcli.bench import beside, ceilings, measuring, synthetic, training

    parts = synthetic.parts(cfg, configs.launch().choices, folder, vocab_size=cfg.vocab_size)
    device = torch.device(parts.device)
    _check_clock(cfg, device)
    watch = measuring.Stopwatch(cfg.clock, device)
    result: dict[str, Any] = {"config": configs.resolved(parts.config), "precision": parts.precision.precision}
    result["compile"], result["device"] = parts.settings.compile, str(device)
    weights = sum(weight.numel() for weight in parts.task.parameters())
    result["parameters"] = weights
    ui.say("model", f"{parts.choices.get('model')}, {weights:,} parameters, {parts.tokens_per_step:,} tokens a step")
    ui.say("precision", parts.precision.reason)
    if "transformers" in cfg.compare:
        beside.check(getattr(parts.task, "model", None))
    generate = _generation(cfg, parts, watch) if "generate" in cfg.what else None
    if "train" in cfg.what:
        ui.note(f"training: {cfg.rounds} rounds")
        result["train"] = training.measure(
            parts,
            watch,
            rounds=cfg.rounds,
            steps=cfg.steps,
            beside=lambda shared: beside.blocks(shared, cfg.compare),
        )
    # after training, so that its tensors do not stand in training's peak
    measured = [ceilings.measure(device, watch) for _ in range(cfg.rounds)]
    result["ceilings"] = {name: measuring.Spread.of([each[name] for each in measured]).plain() for name in measured[0]}
    if generate is not None:
        ui.note(f"generation: batches of {', '.join(map(str, cfg.batch_sizes))}")
        result["generate"] = generate()
    return result


def _generation(cfg: DictConfig, parts: Parts, watch: Stopwatch) -> Callable[[], dict[str, Any]]:
    """What measures generation, after training: what cannot be measured is refused before. Raises InputError."""
    from llmcli import loading
    from llmcli.bench import beside, generation
    from llmcli.decoding.base import Search

    task, strategy = cast(Any, parts.task), parts.strategy
    precision = loading.precision_of(cfg.precision)
    if not hasattr(task, "step"):
        raise InputError(f"task={parts.choices.get('task')} does not continue a text", "what=[train]")
    loading.check_precision(task, precision)
    prompt, new = generation.lengths(task.max_seq_len, cfg.prompt_tokens, cfg.new_tokens)
    if not any(each.startswith("decoding") for each in configs.launch().overrides):
        strategy = configs.build(configs.compose("train", ["decoding=greedy"]).decoding)
    if isinstance(strategy, Search):
        raise InputError("a search gives its tokens at the end, where none can be timed", "decoding=greedy or sample")

    def measure() -> dict[str, Any]:
        reference = beside.llama(task.model) if "transformers" in cfg.compare else None
        # one way: nothing is trained after it
        if told := loading.prepare(task.eval(), precision, parts.device, generating=True):
            ui.say("weights", told)
        others: dict[str, generation.Beside] = {}
        if reference is not None:
            others["transformers"] = beside.generating(reference.to(task.device, generation.dtype(task)), watch)
        how: dict[str, Any] = {"batch_sizes": cfg.batch_sizes, "prompt": prompt, "new": new, "rounds": cfg.rounds}
        return generation.measure(task, strategy, watch, **how, beside=others) | {"precision": precision}

    return measure


def _prepare(cfg: DictConfig) -> dict[str, Any]:
    import torch

    from llmcli.bench import measuring, preparing
    from llmcli.preparation import SECTIONS

    configs.validate(cfg, SECTIONS)
    ui.note("preparing: the data of the config, several times")
    # the processes that encode have clocks of their own
    return preparing.measure(cfg, measuring.Stopwatch("wall", torch.device("cpu")), rounds=cfg.rounds)


def _check_clock(cfg: DictConfig, device: Any) -> None:
    if cfg.clock == "cpu" and device.type != "cpu":
        raise InputError(f"clock=cpu counts the processor's time, and this model is on {device.type}", "clock=wall")


def _check(cfg: DictConfig) -> None:
    """Raises InputError for keys that are not for a bench, and for values of another kind than the defaults."""
    for key in _NOT_HERE:
        if cfg[key]:
            raise InputError(f"{key}={cfg[key]} is for llm train", "llm bench measures a new model")
    for key, allowed in (("what", WHAT), ("compare", COMPARE)):
        if wrong := mismatch(_plain(cfg[key]), list[str]):
            raise InputError(f"{key}: {wrong}", f"{key}=[{','.join(allowed)}]")
        for each in cfg[key]:
            if each not in allowed:
                raise InputError(
                    f"{key} has no {each!r}.{did_you_mean(nearest(each, allowed))}", f"{key}: {', '.join(allowed)}"
                )
    if not cfg.what:
        raise InputError("what=[] measures nothing", f"what: {', '.join(WHAT)}")
    if wrong := mismatch(_plain(cfg.batch_sizes), list[int]):
        raise InputError(f"batch_sizes: {wrong}", "batch_sizes=[1,8]")
    for key in ("steps", "vocab_size", "prompt_tokens", "new_tokens"):
        if wrong := mismatch(cfg[key], int | None):
            raise InputError(f"{key}: {wrong}")
    if cfg.clock not in ("wall", "cpu"):
        raise InputError(f"clock must be wall or cpu, not {cfg.clock!r}")
    sizes = {f"batch_sizes[{place}]": size for place, size in enumerate(cfg.batch_sizes)}
    sizes |= {
        key: cfg[key]
        for key in ("rounds", "steps", "vocab_size", "prompt_tokens", "new_tokens")
        if cfg[key] is not None
    }
    for key, value in sizes.items():
        if value < 1:
            raise InputError(f"{key} ({value}) must be at least 1")
    if not cfg.batch_sizes:
        raise InputError("batch_sizes=[] generates nothing", "batch_sizes=[1,8]")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
