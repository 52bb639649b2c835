"""llm eval: score a run on a split of its own data or of other text; word vectors on lists of words too."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from llmcli import config as configs
from llmcli import runs, ui
from llmcli.errors import InputError
from llmcli.schema import mismatch

MOST_CLASSES = 30  # whose figures are shown; --json and the report have those of all
_KINDS = {
    "stride": int | None,
    "batch_size": int | None,
    "bootstrap": int,
    "max_new_tokens": int,
    "samples": int,
    "out": str,
    "baseline": str | None,
}


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    from llmcli import checkpoint
    from llmcli.evaluation import score
    from llmcli.loading import check_precision, precision_of
    from llmcli.strategies import strategy_of
    from llmcli.trainer import quiet_lightning

    quiet_lightning()
    for name, kind in _KINDS.items():
        if wrong := mismatch(cfg[name], kind):
            raise InputError(f"{name}: {wrong}")
    precision = precision_of(cfg.precision)
    path = runs.resolve(cfg.ckpt, "use")
    if cfg.ckpt in (None, "latest"):
        ui.say("run", str(path))
    loaded = checkpoint.load(path)
    _check_used(loaded.task, path, cfg)
    check_precision(loaded.task, precision)
    lists = _lists(loaded.task, texts)
    strategy = None if cfg.get("decoding") is None else strategy_of(loaded, cfg.decoding)
    began = time.monotonic()
    figures: dict[str, Any] = {}
    if not lists or cfg.get("data") is not None or cfg.split is not None:
        figures = score(
            loaded,
            data=cfg.get("data"),
            split=cfg.split or _asked(configs.launch().overrides),
            stride=cfg.stride,
            batch_size=cfg.batch_size,
            accelerator=str(cfg.accelerator),
            progress=True,
            bootstrap=cfg.bootstrap,
            out={"auto": "auto", "none": None}.get(cfg.out, Path(cfg.out)),
            baseline=checkpoint.load(runs.resolve(cfg.baseline, "use")) if cfg.baseline is not None else None,
            strategy=strategy,
            max_new_tokens=cfg.max_new_tokens,
            samples=cfg.samples,
            precision=precision,
        )
    words = _score_words(loaded.task, loaded.tokenizer, lists) if lists else {}
    figures["seconds"] = round(time.monotonic() - began, 2)
    figures["ckpt"] = str(path)
    if cfg.json:
        ui.out_json({**figures, **words})
    else:
        if words:
            ui.table(_word_rows(words), ("list", "figure", "value", "covered"), right=(2, 3), stdout=True)
        _show_all(figures)
    return 0


def _check_used(task: Any, path: Path, cfg: DictConfig) -> None:
    """Refuse what the user asked of the texts or codes of a run that has none."""
    from llmcli.decoding.codes import CodeModel

    typed = configs.launch().sets
    of_texts = ["decoding"] if cfg.get("decoding") is not None else []
    of_texts += ["max_new_tokens"] if typed("max_new_tokens") else []
    if cfg.max_new_tokens < 1:
        raise InputError(f"max_new_tokens ({cfg.max_new_tokens}) must be at least 1")
    if of_texts and not hasattr(task, "bind"):
        raise InputError(
            f"{of_texts[0]}= says how texts are made that are scored; {path} is a {type(task).__name__} run, "
            "whose figures come from no such texts",
            f"leave out {of_texts[0]}=" + ("; llm generate writes texts with it" if task.generates else ""),
        )
    if typed("samples") and not isinstance(task, CodeModel):
        raise InputError(
            f"samples= are codes that a VAE draws; {path} is a {type(task).__name__} run, which has none",
            "leave out samples=",
        )


def _show_all(figures: Mapping[str, Any]) -> None:
    """The figures with their intervals, beside those in float32, without leaks and their floors, then those of each
    class, what sets them apart from a baseline's, and what else there is to know."""
    plain = {name: value for name, value in figures.items() if not isinstance(value, Mapping | str)}
    floors = {name.removeprefix("floor_"): plain.pop(name) for name in list(plain) if name.startswith("floor_")}
    leaks = dict(figures.get("without_leaks", {}))
    shown: dict[str, Mapping[str, str]] = {"value": {name: _show(value) for name, value in plain.items()}}
    shown["95% interval"] = {name: _between(each) for name, each in figures.get("intervals", {}).items()}
    exact = figures.get("float32", {})
    shown["float32"] = {name: _show(each) for name, each in exact.items()}
    shown["change"] = {name: f"{plain[name] / each - 1:+.2%}" for name, each in exact.items() if each}
    shown["without leaks"] = {name: _show(each) for name, each in leaks.items() if not name.startswith("floor_")}
    shown["floor"] = {name: _show(value) for name, value in floors.items()}
    shown["without leaks, floor"] = {
        name.removeprefix("floor_"): _show(each) for name, each in leaks.items() if name.startswith("floor_")
    }
    shown = {title: column for title, column in shown.items() if column}
    names = dict.fromkeys(name for column in shown.values() for name in column)
    rows: list[tuple[str, ...]]
    rows = [(title, *(column.get(name or "", "") for column in shown.values())) for title, name in _grouped([*names])]
    ui.table(rows, ("figure", *shown), right=[1, *range(2 + ("95% interval" in shown), 1 + len(shown))], stdout=True)
    classes = figures.get("classes", {})
    if 0 < len(classes) <= MOST_CLASSES:
        columns = list(next(iter(classes.values())))
        ui.out("")
        ui.table(
            [(name, *(_show(found.get(each)) for each in columns)) for name, found in classes.items()],
            ("class", *columns),
            right=range(1, 1 + len(columns)),
            stdout=True,
        )
    if baseline := figures.get("baseline"):
        ui.out("")
        rows = [
            (name, _show(baseline["figures"][name]), _show(apart["measured"]), _between((apart["low"], apart["high"])),
             f"{apart['p']:.3f}")
            for name, apart in baseline["differences"].items()
        ]  # fmt: skip
        ui.table(rows, ("figure", "baseline", "difference", "95% interval", "p"), right=(1, 2, 4), stdout=True)
    ui.out("")
    ui.table([(name, value) for name, value in figures.items() if isinstance(value, str)], stdout=True)


def _grouped(names: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """What a row says and the figure in it; those of decoded texts stand below what they are of, which has none."""
    from llmcli.metrics.decoded import GROUPS

    of_texts = {name for group in GROUPS.values() for name in group}
    yield from ((name, name) for name in names if name not in of_texts)
    if "bleu" in names:
        for title, group in GROUPS.items():
            yield title, None
            yield from ((f"  {name}", name) for name in group if name in names)


def _between(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def _lists(task: Any, texts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Kind of list -> name of the file -> what it holds; nothing where no list is asked for."""
    from llmcli.data.word_lists import read_analogies, read_similarity

    similarity, analogies = ([Path(name) for name in texts.get(kind, ())] for kind in ("similarity", "analogies"))
    if not similarity and not analogies:
        return {}
    if not hasattr(task, "score_words"):
        raise InputError(
            f"lists of words are for word vectors, and this is a {type(task).__name__} run",
            "llm train model=word2vec makes word vectors",
        )
    return {
        "similarity": {path.stem: read_similarity(path) for path in similarity},
        "analogies": {path.stem: read_analogies(path) for path in analogies},
    }


def _score_words(task: Any, tokenizer: Any, lists: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Kind of list -> name of the file -> figures."""
    found: dict[str, dict[str, Any]] = task.score_words(tokenizer, **lists)
    return {kind: figures for kind, figures in found.items() if figures}


def _word_rows(words: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, found in words.get("similarity", {}).items():
        rows.append((name, "spearman", _figure(found["spearman"]), f"{found['covered']:,} of {found['pairs']:,}"))
    for name, found in words.get("analogies", {}).items():
        sections = {name: found, **{f"  {section}": part for section, part in found["sections"].items()}}
        for section, part in sections.items():
            covered = f"{part['covered']:,} of {part['questions']:,}"
            rows.append((section, "accuracy", _figure(part["accuracy"]), covered))
    return rows


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _asked(overrides: Sequence[str]) -> str | None:
    """val where the user said how much of the text that shall be; None leaves it to the data."""
    keys = [each.lstrip("+").partition("=")[0] for each in overrides]
    return "val" if any(key in ("data.val_fraction", "data.test_fraction") for key in keys) else None


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
