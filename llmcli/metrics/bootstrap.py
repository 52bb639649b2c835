"""How sure the figures of a split are: the bootstrap over its examples (Efron 1979), of two systems too (Koehn 2004).

Examples are drawn with replacement, as many as there are, and each figure is computed again from the sums of the drawn
ones; that many times over, the middle 95% of the results are the interval. Examples that share a text are drawn
together, as one cluster (Davison & Hinkley 1997, section 3.8): they are not independent. A resample in which a figure
has nothing to be made of says nothing about that figure and is left out.

Shapes: N examples, or clusters of them, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcli.metrics.base import Metric

SHARE = 0.95  # of the resamples that lies in the interval
SEED = 0  # the same intervals each time, and the same resamples for two systems
_AT_ONCE = 2**22  # drawn examples that are counted together: 32 MiB
_FEWEST = 8  # resamples counted together, however many examples there are: what they are made of is read each time


class Contributions:
    """What each example of a split contributes to the sums of its metrics, batch by batch in any order."""

    def __init__(self) -> None:
        self._numbers: list[Tensor] = []
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, numbers: Tensor, each: Mapping[str, Tensor]) -> None:
        """numbers (B,): which examples of the split; each (B, ...): `StepResult.each` of their batch."""
        self._numbers.append(numbers.cpu())
        for name, value in each.items():
            self._parts.setdefault(name, []).append(_small(value.detach().cpu()))

    def each(self) -> dict[str, Tensor]:
        """(N, ...) by name, in the order of the split."""
        order = torch.cat(self._numbers).argsort() if self._numbers else torch.empty(0, dtype=torch.int64)
        return {name: torch.cat(parts)[order] for name, parts in self._parts.items()}


def by_cluster(each: Mapping[str, Tensor], clusters: Tensor) -> dict[str, Tensor]:
    """each (N, ...), clusters (N,), equal for examples that are drawn together -> the sums of every cluster."""
    _, places = torch.unique(clusters, return_inverse=True)
    count = int(places.max()) + 1
    return {
        name: torch.zeros(count, *value.shape[1:], dtype=torch.float64).index_add(0, places, value.double())
        for name, value in each.items()
    }


@dataclass(frozen=True)
class Difference:
    """A figure less that of the baseline: as measured, its interval, and how probable one as large is by chance.

    p is two-sided: twice the share of resamples in which the difference has not the sign that was measured, of one
    more resample than were drawn, so that it is never 0 (Davison & Hinkley 1997, section 4.2).
    """

    measured: float
    low: float
    high: float
    p: float


def intervals(
    metrics: Sequence[Metric], each: Mapping[str, Tensor], *, resamples: int, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """Lower and upper bound of every figure whose sums are all in `each` (N, ...), by its name."""
    drawn = resampled(each, resamples=resamples, seed=seed)
    found = {metric.name: _there(_figures(metric, drawn)) for metric in _known(metrics, each)}
    return {name: _middle(figures) for name, figures in found.items() if len(figures)}


def figures_of(metrics: Sequence[Metric], each: Mapping[str, Tensor]) -> dict[str, float]:
    """Every figure whose sums are all in `each` (N, ...), of these examples."""
    found = {metric.name: _there(_figures(metric, _whole(each))) for metric in _known(metrics, each)}
    return {name: float(figures) for name, figures in found.items() if len(figures)}


def differences(
    metrics: Sequence[Metric],
    each: Mapping[str, Tensor],
    baseline: Mapping[str, Tensor],
    *,
    resamples: int,
    seed: int = SEED,
    baseline_metrics: Sequence[Metric] | None = None,
) -> dict[str, Difference]:
    """How far the figures of one system are from those of another on the same examples (N), in the same order.

    baseline_metrics: of the other system, where its sums are in units of its own; None: the same.
    """
    other = {metric.name: metric for metric in (metrics if baseline_metrics is None else baseline_metrics)}
    both = {name: value for name, value in each.items() if name in baseline}
    ours, theirs = (resampled(side, resamples=resamples, seed=seed) for side in (both, baseline))
    found = {}
    for metric in (each for each in _known(metrics, both) if each.name in other):
        spread = _there(_figures(metric, ours) - _figures(other[metric.name], theirs))
        measured = float(_figures(metric, _whole(both)) - _figures(other[metric.name], _whole(baseline)))
        if math.isnan(measured) or not len(spread):
            continue
        against = min(int((spread <= 0).sum()), int((spread >= 0).sum()))
        low, high = _middle(spread)
        found[metric.name] = Difference(measured, low, high, p=min(1.0, 2 * (against + 1) / (len(spread) + 1)))
    return found


def resampled(each: Mapping[str, Tensor], *, resamples: int, seed: int) -> dict[str, Tensor]:
    """each (N, ...) -> the sums of each resample (R, ...), in double precision.

    Equal N and seed draw the same examples, whatever they contribute.
    """
    n = len(next(iter(each.values())))
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in each}
    size = max(_FEWEST, _AT_ONCE // n)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = torch.randint(n, (rows, n), generator=generator)
        places = (drawn + n * torch.arange(rows)[:, None]).flatten()
        counts = torch.bincount(places, minlength=rows * n).view(rows, n).double()  # how often each was drawn
        for name, value in each.items():
            parts[name].append(counts @ value.view(n, -1).double())
    return {name: torch.cat(found).view(resamples, *each[name].shape[1:]) for name, found in parts.items()}


def _whole(each: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """each (N, ...) -> its sums as of one resample (1, ...)."""
    return {name: value.double().sum(0, keepdim=True) for name, value in each.items()}


def _known(metrics: Sequence[Metric], each: Mapping[str, Tensor]) -> list[Metric]:
    return [metric for metric in metrics if set(metric.sums) <= each.keys()]


def _figures(metric: Metric, sums: Mapping[str, Tensor]) -> Tensor:
    """The figure of each resample, (R,); nan where there is nothing to make it of."""
    columns = {name: sums[name] if sums[name].ndim > 1 else sums[name].tolist() for name in metric.sums}
    rows = range(len(next(iter(columns.values()))))
    return torch.tensor(
        [metric.figure({name: column[row] for name, column in columns.items()}) for row in rows], dtype=torch.float64
    )


def _there(figures: Tensor) -> Tensor:
    """Without those that are nan."""
    return figures[~figures.isnan()]


def _middle(figures: Tensor) -> tuple[float, float]:
    outside = (1 - SHARE) / 2
    low, high = torch.quantile(figures, torch.tensor([outside, 1 - outside], dtype=figures.dtype)).tolist()
    return low, high


def _small(value: Tensor) -> Tensor:
    """In half of the memory where that loses nothing: counts of one example are small."""
    return value.int() if value.dtype == torch.int64 else value
