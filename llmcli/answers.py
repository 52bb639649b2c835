"""What a run answers to each example of a split: predictions.jsonl and report.html, and how sure the figures are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from llmcli import files
from llmcli.data.examples import Examples
from llmcli.decoded import Decoded
from llmcli.errors import InputError, LLMError
from llmcli.metrics.base import Metric
from llmcli.metrics.bootstrap import SHARE, Contributions, by_cluster, differences, figures_of, intervals
from llmcli.metrics.calibration import CalibrationError
from llmcli.report.decoded_page import DecodedFigures, decoded_report
from llmcli.report.predictions import Predictions, line, plain
from llmcli.report.predictions_page import Evaluated, report
from llmcli.tasks.base import Batch, ScoresExamples, StepResult, Task

PREDICTIONS, REPORT, ABOUT = "predictions.jsonl", "report.html", "figures.json"


class Answers:
    """Is shown each batch of one evaluation (`Task.accumulate`), and knows afterwards what became of the examples.

    folder: for the two files, made by `open_folder`; None keeps no single outcomes. A context, which closes its files.
    decoded: the texts that the run found for the sources of the examples, of a run that does; given after the batches.
    """

    decoded: Decoded | None = None

    def __init__(self, task: Task, examples: Examples, *, folder: Path | None) -> None:
        self.task, self.examples, self.folder = task, examples, folder
        self.contributions = Contributions()
        self._totals: dict[str, Tensor] = {}
        self._predictions: Predictions | None = None
        if folder is not None and isinstance(task, ScoresExamples):
            self._predictions = Predictions(folder, classes=getattr(task, "names", ()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._predictions is not None:
            self._predictions.close()

    def __call__(self, batch: Batch, result: StepResult) -> None:
        if not result.each:
            return
        self.contributions.add(batch["numbers"], result.each)
        for name, value in result.sums.items():
            self._totals[name] = self._totals.get(name, 0) + value.cpu().double()
        if self._predictions is not None and isinstance(self.task, ScoresExamples):
            numbers = batch["numbers"].tolist()
            records = [self.examples[number] for number in numbers]
            with _written(self.folder):
                self._predictions.add(numbers, self.task.outcomes(records, result))

    def intervals(self, resamples: int) -> dict[str, tuple[float, float]]:
        """Bounds of every figure that the examples make, by its name; empty for a task that does not say which do."""
        each = self._each()
        return intervals(self._metrics(), self._clustered(each), resamples=resamples) if each else {}

    def without(self, numbers: Sequence[int]) -> dict[str, float]:
        """Every figure that the examples make, of the split without those of these numbers."""
        each = self._each()
        return figures_of(self._metrics(), {name: value[_all_but(numbers, len(value))] for name, value in each.items()})

    def against(self, baseline: Answers, resamples: int) -> dict[str, dict[str, float]]:
        """How far each figure is from that of another run on the same examples: measured, low, high, p by its name."""
        ours, theirs = (side._each() for side in (self, baseline))
        if not ours or not theirs:  # a task that does not say what each example contributes
            return {}
        if self.decoded is not None and not torch.equal(ours["n"], theirs["n"]):
            theirs.pop("n")  # other tokens: what is measured by the token differs in meaning
        ours, theirs = self._clustered(ours), self._clustered(theirs)
        found = differences(self._metrics(), ours, theirs, resamples=resamples, baseline_metrics=baseline._metrics())
        return {name: asdict(each) for name, each in found.items()}

    def classes(self) -> dict[str, dict[str, float]]:
        """Figures of each class by its name, counts among them as whole numbers; empty where the task has none."""
        found = self.task.by_class(self._totals) if self._totals else {}
        return {name: {key: _whole(key, value) for key, value in each.items()} for name, each in found.items()}

    def write(self, figures: Mapping[str, Any], *, about: Mapping[str, Any], subtitle: str) -> dict[str, str]:
        """Both files, and what `open_folder` knows the folder by; returns their paths, none without a folder.

        figures: as `llm eval` gives them, with `intervals`, `classes` and `baseline` where there are any.
        """
        if self.folder is None:
            return {}
        if self.decoded is not None:
            return self._write_decoded(self.folder, figures, about=about, subtitle=subtitle)
        if self._predictions is None:
            return {}
        headers, rows = figure_rows(figures)
        evaluated = Evaluated(
            subtitle=subtitle,
            headers=headers,
            figures=rows,
            note=_note(figures),
            classes=figures.get("classes", {}),
            confusion=self._predictions.confusion,
            bins=self._bins(),
            hardest=self._predictions.hardest(),
            right=self._predictions.right(),
        )
        with _written(self.folder):
            files.write_json(self.folder / ABOUT, {**about, "figures": dict(figures)})
            self._predictions.write(self.folder / PREDICTIONS)
            files.write_atomic(self.folder / REPORT, report(evaluated).encode())
        return {"predictions": str(self.folder / PREDICTIONS), "report": str(self.folder / REPORT)}

    def _write_decoded(
        self, folder: Path, figures: Mapping[str, Any], *, about: Mapping[str, Any], subtitle: str
    ) -> dict[str, str]:
        """The same of texts that were found for sources."""
        assert self.decoded is not None
        each = self.contributions.each()
        outcomes = [plain(outcome) for outcome in self.decoded.outcomes((each["loss"] / each["n"]).tolist())]
        headers, rows = figure_rows(figures)
        page = decoded_report(
            DecodedFigures(subtitle=subtitle, headers=headers, figures=rows, note=_note(figures), outcomes=outcomes)
        )
        with _written(folder):
            files.write_json(folder / ABOUT, {**about, "figures": dict(figures)})
            files.write_atomic(folder / PREDICTIONS, b"".join(map(line, outcomes)))
            files.write_atomic(folder / REPORT, page.encode())
        return {"predictions": str(folder / PREDICTIONS), "report": str(folder / REPORT)}

    def _metrics(self) -> list[Metric]:
        """Those of the task, and of the texts: a figure that both have, as `task.decode_val` has some, is of these."""
        of_texts = [] if self.decoded is None else self.decoded.scorer.metrics
        known = {metric.name for metric in of_texts}
        return [*(metric for metric in self.task.metrics() if metric.name not in known), *of_texts]

    def _each(self) -> dict[str, Tensor]:
        """(N, ...) by name, in the order of the split."""
        return {**self.contributions.each(), **({} if self.decoded is None else self.decoded.each)}

    def _clustered(self, each: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of (N, ...) the sums of what is drawn together: all questions about one context, else single examples."""
        if not hasattr(self.examples[0], "context"):
            return each
        first: dict[str, int] = {}  # the number of the first question about a context
        contexts = (getattr(self.examples[number], "context", "") for number in range(len(self.examples)))
        clusters = [first.setdefault(text, number) if text else number for number, text in enumerate(contexts)]
        return by_cluster(each, torch.tensor(clusters))

    def _bins(self) -> list[tuple[int, float, float]]:
        """(examples, mean confidence, share right) of each bin that has examples."""
        if not self._totals.keys() >= set(CalibrationError.sums):
            return []
        columns = zip(*(self._totals[name].tolist() for name in CalibrationError.sums), strict=True)
        return [(int(n), confidence / n, right / n) for n, confidence, right in columns if n]


def _all_but(numbers: Sequence[int], n: int) -> Tensor:
    """(n,) bool: False at the numbers."""
    kept = torch.ones(n, dtype=torch.bool)
    kept[list(numbers)] = False
    return kept


def figure_rows(figures: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Headers, and a row for each figure: its interval, in float32, without leaks, its floor, its baseline."""
    bounds, apart = figures.get("intervals", {}), figures.get("baseline", {}).get("differences", {})
    exact, leaks = figures.get("float32", {}), figures.get("without_leaks", {})
    floors = {name.removeprefix("floor_") for name in figures if name.startswith("floor_")}
    names = [name for name, value in figures.items() if isinstance(value, float) and not name.startswith("floor_")]
    headers = ["figure", "value"]
    headers += ["from", "to"] if bounds else []
    headers += ["in float32"] if exact else []
    headers += ["without leaks"] if leaks else []
    headers += ["floor"] if floors else []
    headers += ["less the baseline's", "from", "to", "p"] if apart else []
    rows = []
    for name in names:
        row = [name, figures[name]]
        row += bounds.get(name, (None, None)) if bounds else ()
        row += [exact.get(name)] if exact else []
        row += [leaks.get(name)] if leaks else []
        row += [figures.get(f"floor_{name}")] if floors else []
        row += apart.get(name, dict.fromkeys(("measured", "low", "high", "p"))).values() if apart else ()
        rows.append(row)
    return headers, rows


def open_folder(folder: Path, *, about: Mapping[str, Any]) -> Path:
    """Make the folder of the two files, before anything is scored.

    about: what they are of, in plain values. Raises InputError where the folder cannot be written, and where it holds
    those of other data.
    """
    known = files.read_json(folder / ABOUT)
    same = all(known.get(name) == about[name] for name in ("data", "split"))
    if (known and not same) or (not known and (folder / PREDICTIONS).exists()):
        raise InputError(
            f"{folder} holds predictions for {known.get('origin', 'something else')}, split {known.get('split', '?')}",
            "another out=FOLDER, or delete that one",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        raise InputError(
            f"the folder {folder} for predictions and report cannot be written: {err.strerror}",
            "out=FOLDER puts them elsewhere, out=none writes neither",
        ) from err
    return folder


@contextmanager
def _written(folder: Path | None) -> Iterator[None]:
    """Raises LLMError where what is written does not fit."""
    try:
        yield
    except OSError as err:
        raise LLMError(
            f"cannot write predictions and report to {folder}: {err.strerror}",
            "free some space, or score without them: out=none",
        ) from err


def _note(figures: Mapping[str, Any]) -> str:
    intervals = f"Intervals hold {SHARE:.0%} of resamples of the examples." if figures.get("intervals") else ""
    floor = f"Floor: {figures['floor']}, in place of a text." if "floor" in figures else ""
    weights = f"Weights: {figures['weights']}." if "weights" in figures else ""
    return " ".join(each for each in (intervals, floor, weights) if each)


def _whole(name: str, value: float) -> float:
    return int(value) if name == "support" else value
