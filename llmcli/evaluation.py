"""Score a run on a split: every token once, on the device, read at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from omegaconf import DictConfig, OmegaConf

from llmcli import ui
from llmcli.answers import Answers, open_folder
from llmcli.assembly import batches
from llmcli.checkpoint import Loaded
from llmcli.data.records import TextPair
from llmcli.decoded import Decoded, decode, scorer_of
from llmcli.decoding.base import Search, SourceModel, Strategy
from llmcli.decoding.codes import CodeModel
from llmcli.errors import InputError
from llmcli.floor import floor_of
from llmcli.loading import Precision, prepare
from llmcli.metrics.decoded import TextScorer
from llmcli.scored_data import Scored, find_data, with_scorer
from llmcli.strategies import strategy_of
from llmcli.tasks.base import Batch, ScoresExamples, StepResult, Task, figures
from llmcli.text_floor import TextFloor
from llmcli.trainer import accelerator_of


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


@torch.inference_mode()
def evaluate(
    task: Task,
    batches: Iterable[dict[str, Any]],
    *,
    device: torch.device,
    text: dict[str, float],
    on_batch: Callable[[int], None] | None = None,
    seen: Callable[[Batch, StepResult], None] | None = None,
) -> dict[str, float]:
    """The task's metrics over all batches.

    text: the amounts of text that the targets stand for, e.g. {"bytes": ..., "characters": ...}. on_batch is called
    with the number of targets scored so far, seen with each batch and its result.
    """
    task.to(device).eval()
    task.on_validation_epoch_start()
    metrics, scored = task.metrics(), 0
    for batch in batches:
        scored += task.accumulate(metrics, to_device(batch, device), seen)
        if on_batch is not None:
            on_batch(scored)
    for metric in metrics:
        metric.update(text)
    return figures(metrics)


def score(
    loaded: Loaded,
    *,
    data: DictConfig | None,
    split: str | None,
    stride: int | None,
    batch_size: int | None,
    accelerator: str,
    progress: bool,
    bootstrap: int = 0,
    out: Path | Literal["auto"] | None = None,
    baseline: Loaded | None = None,
    strategy: Strategy | Search | None = None,
    max_new_tokens: int = 200,
    samples: int = 1,
    precision: Precision = "auto",
) -> dict[str, Any]:
    """Figures of a loaded run on `split`, of `data` where given (tokenized with the run's own tokenizer).

    split None: val; of a `data` that is split by fractions ALL of it, unless it is the very files that the run was
    trained on: then the run's own val. stride: tokens between overlapping windows; None: windows side by side.

    Of examples also: `classes`; `without_leaks`, the same figures without the texts that stand in train too;
    `intervals` from `bootstrap` resamples, 0 for none; predictions.jsonl and report.html in the folder `out`, "auto"
    for one of the run, None for neither; `baseline`: how far the figures are from those of this run on the same
    examples.

    Of pairs of texts the sources are decoded, by `strategy`, None: as the run says, and the texts are scored. samples:
    codes that a VAE draws for each text; with more than one there is a closer bound of its probability.

    precision: of the weights, which the task has from then on; but for "auto" and "32" there are also the figures in
    `float32`, without those of decoded texts, which are made once. A baseline stays as it was trained.

    Raises InputError for an unknown split, where the run's own data has changed, for labels that the run was not
    trained on, for a folder that cannot be written, and for a baseline that scores other data.
    """
    if bootstrap < 0:
        raise InputError(f"bootstrap ({bootstrap}) must be at least 0")
    if baseline is not None and not bootstrap:
        raise InputError("baseline= compares two runs by resampling; bootstrap=0 leaves nothing to compare")
    if samples < 1:
        raise InputError(f"samples ({samples}) must be at least 1")
    loaded = with_scorer(loaded, data)
    baseline = None if baseline is None else with_scorer(baseline, data)
    for each in (loaded, baseline):
        if each is not None and isinstance(each.task, CodeModel):
            each.task.samples = samples
    if baseline is not None:
        _check_same_task(loaded, baseline)
    device = torch.device(accelerator_of(accelerator, 1, key="accelerator")[0])
    how: dict[str, Any] = {"stride": stride, "size": batch_size, "device": device, "progress": progress}
    scored = find_data(loaded, data, split)
    if not scored.examples:
        if baseline is not None:
            raise InputError("baseline= compares runs on examples; this data holds running text")
        exact = _in_float32(loaded, scored, precision, **how)
        return _figures(loaded, scored, **how) | exact
    examples = scored.prepared.examples(scored.split)
    scorer = scorer_of(examples) if _turns_texts(loaded, scored) else None  # refuses before anything is computed
    other = None
    if baseline is not None:
        other = find_data(baseline, data, split)
        _check_comparable(loaded, scored, other)
    about = {**scored.about, "ckpt": str(loaded.path)}
    folder = None
    if out is not None and isinstance(loaded.task, ScoresExamples | SourceModel):
        folder = open_folder(_folder(loaded.path, scored, precision) if out == "auto" else out, about=about)
    found_by: dict[str, Any] = {"strategy": strategy, "max_new_tokens": max_new_tokens, "progress": progress}
    floor: TextFloor | None = None
    exact = _in_float32(loaded, scored, precision, **how)
    with Answers(loaded.task, examples, folder=folder) as answers:
        found = _figures(loaded, scored, seen=answers, **how) | exact
        if scorer is not None:
            answers.decoded = _decoded(loaded, scored, scorer, **found_by)
            found.update(answers.decoded.figures())
            if floor := _text_floor(scored, scorer):
                found |= {"floor": floor.name} | _as_floor(floor.figures())
        if bootstrap:
            found["intervals"] = {name: list(each) for name, each in answers.intervals(bootstrap).items()}
        if numbers := scored.leaked():
            found["without_leaks"] = {"examples": scored.count - len(numbers)}
            if len(numbers) < scored.count:  # else nothing is left that could have a figure
                found["without_leaks"] |= answers.without(numbers) | _floors(loaded, scored, without=numbers)
                found["without_leaks"] |= _as_floor(floor.figures(without=numbers)) if floor is not None else {}
        if classes := answers.classes():
            found["classes"] = classes
        if baseline is not None and other is not None:
            with Answers(baseline.task, other.prepared.examples(other.split), folder=None) as theirs:
                figures = _figures(baseline, other, seen=theirs, **how)
                if scorer is not None:
                    theirs.decoded = _decoded(baseline, other, scorer, **found_by)
                    figures.update(theirs.decoded.figures())
            apart = answers.against(theirs, bootstrap)
            found["baseline"] = {"ckpt": str(baseline.path), "figures": figures, "differences": apart}
        told = [str(loaded.path), scored.about["origin"], scored.about["split"], *([precision] if exact else [])]
        return {**found, **answers.write(found, about=about, subtitle=" · ".join(told))}


def _in_float32(
    loaded: Loaded, scored: Scored, precision: Precision, *, device: torch.device, **how: Any
) -> dict[str, Any]:
    """Gives the weights their precision, in place -> what the figures were before, where that changes them."""
    if precision in ("auto", "32"):
        return {}
    found = _figures(loaded, scored, device=device, floors=False, **how)
    said = prepare(loaded.task, precision, device)
    named = {name: value for name, value in found.items() if isinstance(value, float)}
    return {"weights": said or precision, "float32": named}  # `precision` is a figure of classes and entities


def _floors(loaded: Loaded, scored: Scored, without: Sequence[int] = ()) -> dict[str, float]:
    return _as_floor(floor_of(loaded.task.floor, scored.prepared, scored.split, without=without))


def _text_floor(scored: Scored, scorer: TextScorer) -> TextFloor | None:
    """What texts without a model score, where there is something else to be made of a source."""
    if scored.prepared.record != TextPair.__name__:
        return None
    return TextFloor(cast(Sequence[TextPair], scored.prepared.examples(scored.split)), scorer)


def _as_floor(figures: Mapping[str, float]) -> dict[str, float]:
    return {f"floor_{name}": value for name, value in figures.items()}


def _figures(
    loaded: Loaded,
    scored: Scored,
    *,
    stride: int | None,
    size: int | None,
    device: torch.device,
    progress: bool,
    floors: bool = True,
    seen: Callable[[Batch, StepResult], None] | None = None,
) -> dict[str, Any]:
    prepared, split = scored.prepared, scored.split
    module = batches(OmegaConf.create(loaded.config), prepared, loaded.task, trusted=loaded.trusted)
    loader = module.eval_loader(split, stride=stride, size=size)
    stats = prepared.manifest["splits"][split]
    with ui.Meter() as meter:
        found: dict[str, Any] = evaluate(
            loaded.task,
            loader,
            device=device,
            text={unit: float(stats[unit]) for unit in ("bytes", "characters")},
            on_batch=(lambda n: meter("evaluating", n, stats["tokens"])) if progress else None,
            seen=seen,
        )
    if floors and scored.own and split != "train":  # of the text that it was learned from it would be no floor
        found.update(_floors(loaded, scored))
    found.update(split=scored.about["split"], tokens=stats["tokens"], unknown=stats.get("unknown", 0))
    return found


def _turns_texts(loaded: Loaded, scored: Scored) -> bool:
    """Whether the run makes texts of sources, and there are references to score them beside: of an autoencoder the
    texts themselves."""
    if isinstance(loaded.task, CodeModel):
        return loaded.task.d_code > 0
    return isinstance(loaded.task, SourceModel) and scored.prepared.record == TextPair.__name__


def _decoded(
    loaded: Loaded,
    scored: Scored,
    scorer: TextScorer,
    *,
    strategy: Strategy | Search | None,
    max_new_tokens: int,
    progress: bool,
) -> Decoded:
    examples = scored.prepared.examples(scored.split)
    with ui.Meter() as meter:
        texts = decode(
            loaded.task,
            loaded.tokenizer,
            examples,
            strategy=strategy or strategy_of(loaded, None),
            max_new_tokens=max_new_tokens,
            report=(lambda n: meter("decoding", n, len(examples))) if progress else None,
        )
    return Decoded.of(texts, examples, scorer)


def _folder(ckpt: Path, scored: Scored, precision: Precision) -> Path:
    """eval/ of the run and there a folder of this data and split; of the checkpoint, if it is not the run's best, and
    of the precision of its weights, if they are not as they were trained."""
    home = ckpt.parent.parent if ckpt.parent.name == "checkpoints" else ckpt.parent
    parts = [scored.about["split"]]
    parts += [] if scored.own else [scored.about["data"][:8]]
    parts += [] if ckpt.stem == "best" else [ckpt.stem]
    parts += [] if precision in ("auto", "32") else [precision]
    return home / "eval" / "-".join(parts)


def _check_same_task(ours: Loaded, theirs: Loaded) -> None:
    """Raises InputError unless both runs have figures of the same kind."""
    if type(ours.task) is not type(theirs.task):
        names = [type(loaded.task).__name__ for loaded in (ours, theirs)]
        raise InputError(f"the baseline is a {names[1]} run, this is a {names[0]} run: their figures differ in meaning")


def _check_comparable(ours: Loaded, one: Scored, other: Scored) -> None:
    """Raises InputError unless both runs score the same examples of the same split."""
    sides = [(each.about["data"], each.about["split"], each.count) for each in (one, other)]
    if sides[0] != sides[1]:
        said = [f"{each.count:,} examples of {each.about['origin']}, {each.about['split']}" for each in (one, other)]
        raise InputError(
            f"the baseline would be scored on other examples: {said[1]}; this run: {said[0]}",
            "data=... and split=... name what both are to be scored on",
        )
    if _turns_texts(ours, one):
        references = [[record.texts()[-1] for record in each.prepared.examples(each.split)] for each in (one, other)]
        if references[0] != references[1]:
            raise InputError(
                "the baseline cleans texts in another way: it would be scored beside other references",
                "only runs with the same clean=[...] can be compared",
            )
