"""What `llm train` says: before, instead of (--dry-run) and after training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from llmcli import ui
from llmcli.asked import ONE_TEXT, usage
from llmcli.assembly import Parts, matrix_parameters
from llmcli.callbacks.history import History
from llmcli.data.duplicates import in_words
from llmcli.data.records import Text
from llmcli.floor import NAMES
from llmcli.trainer import describe_device


def count(n: float) -> str:
    """3141592 -> "3.1M"."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= limit:
            return f"{n / limit:.1f}{unit}"
    return str(int(n))


def introduce(parts: Parts) -> None:
    """The start-up lines: data, tokenizer, model, optimizer, machine."""
    prepared, task, choices, budget = parts.prepared, parts.task, parts.choices, parts.budget
    when = "prepared just now" if prepared.fresh else "prepared before"
    ui.say("data", f"{choices.get('data')}   {prepared.describe()}   {when}")
    if parts.config.get("clean"):
        ui.say("cleaned by", ", ".join(map(str, parts.config.clean)))
    if twice := in_words(prepared.manifest):
        ui.say("duplicates", twice)
    if remark := getattr(parts.data, "remark", ""):
        ui.say("batches", remark)
    per_token = prepared.count("characters", "train") / max(1, prepared.count("tokens", "train"))
    ids, of_sources = f"{prepared.tokenizer.vocab_size:,} ids", prepared.tokenizer.of_sources
    if of_sources is not prepared.tokenizer:
        ids = f"{of_sources.vocab_size:,} ids for sources, {ids} for targets"
    ui.say("tokenizer", f"{choices.get('tokenizer')}   {ids}, {per_token:.1f} characters a token")
    total = sum(p.numel() for p in task.parameters())
    context = getattr(getattr(task, "model", None), "max_seq_len", None)
    ui.say(
        "model",
        f"{choices.get('model')}   {count(total)} parameters ({count(total - matrix_parameters(task))} in tables)"
        + (f", context {context}" if context else ""),
    )
    for title, remark in parts.remarks.items():
        if remark:
            ui.say(title, remark)
    lengths = []
    if budget.steps is not None:
        lengths.append(f"{budget.steps:,} steps ({count(parts.planned_tokens or 0)} tokens)")
    if budget.seconds is not None:
        lengths.append(ui.clock(budget.seconds))
    if task.single_pass:
        ui.say("optimizer", "none: the text is counted once")
        return ui.say("machine", describe_device(parts.device, parts.ranks))
    ui.say(
        "optimizer",
        f"{choices.get('optimizer')}   lr {parts.config.optimizer.lr}, {choices.get('schedule')} over "
        + " or ".join(lengths),
    )
    ui.say("machine", f"{describe_device(parts.device, parts.ranks)}   {parts.precision.reason}")


def dry_run(parts: Parts) -> None:
    """Sizes, memory, steps and tokens, on stdout."""
    weights = sum(p.numel() * p.element_size() for p in parts.task.parameters())
    moments = 2  # the most that a shipped optimizer keeps per weight
    tokens = parts.planned_tokens
    per_epoch = parts.data.tokens_per_batch * parts.data.batches_per_epoch(parts.ranks) * parts.ranks
    report: dict[str, Any] = {
        "parameters": sum(p.numel() for p in parts.task.parameters()),
        "weights_mb": round(weights / 1e6, 1),
        "training_mb": round(weights * (2 + moments) / 1e6, 1),
        "device": parts.device,
        "devices": parts.ranks,
        "precision": parts.precision.precision,
        "compile": parts.precision.compile,
        "steps": parts.budget.steps,
        "tokens_per_step": parts.tokens_per_step,
        "tokens": tokens,
        "epochs": None if tokens is None else round(tokens / max(1, per_epoch), 2),
        "train_tokens": parts.prepared.count("tokens", "train"),
        "val_tokens": parts.prepared.count("tokens", "val"),
    }
    if parts.config.json:
        ui.out_json(report)
        return
    notes = {
        "training_mb": "weights, gradients and optimizer state; activations come on top",
        "tokens_per_step": "over all micro-batches and devices",
    }
    ui.table(
        [(key, _shown(value), notes.get(key, "")) for key, value in report.items()],
        ("", "value", ""),
        right=(1,),
        stdout=True,
    )


def _shown(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)


def sum_up(parts: Parts, history: History, figures: Mapping[str, Any], *, folder: Path, prompt: str) -> None:
    """How it went and what to type next. figures: those of metrics.json."""
    best, now = history.now.best, history.now
    at = "" if now.best_step is None else f"          validation   best at step {now.best_step:,}"
    ui.note(f"done in {ui.clock(history.elapsed())}{at}")
    if best:
        shown = {"perplexity": "perplexity", "bits_per_byte": "bits/byte", "accuracy": "accuracy"}
        shown.setdefault(history.monitor, history.monitor.replace("_", " "))
        line = [f"loss {best['loss']:.3f} {parts.task.loss_unit}"] if "loss" in best else []
        line += [f"{label} {best[name]:.3f}" for name, label in shown.items() if name in best and name != "loss"]
        floors = {name.removeprefix("floor_"): value for name, value in figures.items() if name.startswith("floor_")}
        if floor := [f"{name} {value:.3f}" for name, value in floors.items() if value is not None]:
            line.append(f"({NAMES[parts.task.floor]}: {'   '.join(floor)})")
        ui.note("  " + "   ".join(line))
    ui.note(f"  curves  {folder / 'curves.png'}")
    if hasattr(parts.task, "template"):
        ui.note(f"  next    llm chat ckpt={folder}")
    elif parts.task.generates:
        ui.note(f"  next    llm generate ckpt={folder} --prompt {_quoted(prompt)}")
    elif hasattr(parts.task, "predict"):
        word = max(prompt.split(), key=len, default=prompt)
        asked = cast(Any, parts.task).example(prompt) if hasattr(parts.task, "example") else word
        said = f"--text {_quoted(asked)}" if (way := _way(parts)) == ONE_TEXT else usage(way)
        ui.note(f"  next    llm predict ckpt={folder} {said}")


def _way(parts: Parts) -> tuple[str, ...]:
    """The way to ask the task that takes as many texts as its examples have."""
    texts = 1 if parts.prepared.record == Text.__name__ else len(parts.prepared.examples("val")[0].texts())
    return next((way for way in parts.task.asks if len(way) == texts), parts.task.asks[0])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
