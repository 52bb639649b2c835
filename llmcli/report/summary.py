"""What `llm train` says: before, instead of (--dry-run) and after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmcli import checkpoint, files, runs, ui
from llmcli import config as configs
from llmcli.assembly import Parts, matrix_parameters
from llmcli.callbacks.history import History
from llmcli.data.prepare import Prepared
from llmcli.evaluation import evaluate
from llmcli.models import ngram
from llmcli.report.curves import draw
from llmcli.trainer import describe_device
from llmcli.trust import packages_of

FLOOR_ORDER = 5
FLOOR_TOKENS = 5_000_000  # of each split: seconds of work and a few hundred MB


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
    per_token = prepared.count("characters", "train") / max(1, prepared.count("tokens", "train"))
    ui.say(
        "tokenizer",
        f"{choices.get('tokenizer')}   {prepared.tokenizer.vocab_size:,} ids, {per_token:.1f} characters a token",
    )
    total = sum(p.numel() for p in task.parameters())
    context = getattr(getattr(task, "model", None), "max_seq_len", None)
    ui.say(
        "model",
        f"{choices.get('model')}   {count(total)} parameters ({count(total - matrix_parameters(task))} in tables)"
        + (f", context {context}" if context else ""),
    )
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


def sum_up(parts: Parts, history: History, *, folder: Path, prompt: str) -> dict[str, Any]:
    """Write metrics.json and curves.png, say how it went and what to type next; returns the figures."""
    now = history.now
    best = dict(now.best)
    whole_split = parts.data.eval_size * parts.data.seq_len * parts.settings.val_batches
    if best and whole_split < parts.prepared.count("tokens", "val"):
        # validations read a part of the split; the figure that is reported reads all of it, with the best weights
        best = _score_best(parts, folder)
    floor = ngram_floor(parts.prepared)
    figures: dict[str, Any] = {
        **{f"val_{name}": value for name, value in best.items()},
        "perplexity": best.get("perplexity"),
        "best_step": now.best_step,
        "steps": now.step,
        "tokens": now.tokens,
        "seconds": round(history.elapsed(), 2),
        "tokens_per_second": now.tokens_per_second,
        "floor_loss": floor,
        "run": str(folder),
    }
    files.write_json(folder / "metrics.json", figures)
    curves = draw(folder, floor=floor)
    at = "" if now.best_step is None else f"          validation   best at step {now.best_step:,}"
    ui.note(f"done in {ui.clock(history.elapsed())}{at}")
    if best:
        shown = {"perplexity": "perplexity", "bits_per_byte": "bits/byte", "accuracy": "accuracy"}
        line = [f"loss {best['loss']:.3f} nats/token"]
        line += [f"{label} {best[name]:.3f}" for name, label in shown.items() if name in best]
        if floor is not None:
            line.append(f"({FLOOR_ORDER}-gram loss {floor:.3f})")
        ui.note("  " + "   ".join(line))
    quoted = prompt.replace("\\", "\\\\").replace('"', '\\"')
    ui.note(f"  curves  {curves}")
    ui.note(f'  next    llm generate ckpt={folder} --prompt "{quoted}"')
    return figures


def _score_best(parts: Parts, folder: Path) -> dict[str, float]:
    # what the user wrote for this run is his own; of a resumed run it is what was trusted
    own = packages_of(configs.resolved(parts.config)) if parts.trusted is None else ()
    task = checkpoint.load(runs.resolve(str(folder), "use"), packages=own).task
    prepared = parts.prepared
    with ui.Meter() as meter:
        return evaluate(
            task,
            parts.data.eval_loader("val", alone=True),  # the other processes have left
            device=parts.task.device,
            text={unit: float(prepared.count(unit, "val")) for unit in ("bytes", "characters")},
            on_batch=lambda n: meter("scoring the whole validation split", n, prepared.count("tokens", "val")),
        )


def ngram_floor(prepared: Prepared) -> float | None:
    """Validation loss of the interpolated Kneser-Ney model on the same tokens, computed once for prepared data."""
    path = prepared.path / "floor.json"
    known = files.read_json(path).get("loss")
    if known is None:
        train, val = prepared.split("train"), prepared.split("val")
        known = ngram.floor(
            train.read(0, min(len(train), FLOOR_TOKENS)),
            val.read(0, min(len(val), FLOOR_TOKENS)),
            prepared.tokenizer.vocab_size,
            order=FLOOR_ORDER,
        )
        files.write_json(path, {"loss": known, "order": FLOOR_ORDER})
    return float(known)
