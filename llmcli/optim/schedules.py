"""Learning-rate shapes: pure functions of where training is -> the factor that multiplies each rate.

`progress` in [0, 1] is the consumed fraction of the budget, whatever its unit (steps, epochs, tokens,
seconds); `step` counts optimizer steps from 0. `warmup` below 1 is a fraction of the budget, from 1 up a
number of steps.
"""

from __future__ import annotations

import math

from llmcli.errors import InputError


def constant(progress: float, step: int, *, warmup: float) -> float:
    """Linear warm-up, then 1."""
    return _ramp(progress, step, warmup)


def linear(progress: float, step: int, *, warmup: float, final: float) -> float:
    """Linear warm-up to 1, then a straight line that reaches `final` at the end of the budget."""
    _check_final(final)
    return _ramp(progress, step, warmup) * (final + (1 - final) * (1 - _past(progress, warmup)))


def cosine(progress: float, step: int, *, warmup: float, final: float) -> float:
    """Linear warm-up to 1, then half a cosine down to `final` (Loshchilov & Hutter 2017)."""
    _check_final(final)
    fall = (1 + math.cos(math.pi * _past(progress, warmup))) / 2
    return _ramp(progress, step, warmup) * (final + (1 - final) * fall)


def wsd(progress: float, step: int, *, warmup: float, decay: float, final: float) -> float:
    """Warm-up, stable, decay (Hu et al. 2024): 1, then over the last `decay` of the budget to `final`."""
    if not 0 < decay <= 1:
        raise InputError(f"schedule.decay ({decay}) must be above 0 and at most 1, a fraction of the budget")
    _check_final(final)
    fall = min(1.0, (1 - progress) / decay)
    return _ramp(progress, step, warmup) * (final + (1 - final) * max(0.0, fall))


def inverse_sqrt(progress: float, step: int, *, warmup: float) -> float:
    """The Transformer's schedule (Vaswani et al. 2017), scaled to peak at 1.

    Linear warm-up, then sqrt(warmup / step); with a fractional warmup, progress stands for the step number.
    """
    if warmup <= 0:
        raise InputError(f"schedule.warmup ({warmup}) must be above 0 for inverse_sqrt")
    at = progress if warmup < 1 else float(step + 1)
    return min(at / warmup, math.sqrt(warmup / at)) if at > 0 else 0.0


def slanted_triangular(progress: float, step: int, *, cut: float, ratio: float) -> float:
    """Slanted triangle of ULMFiT (Howard & Ruder 2018): up for the first `cut` of the budget, then down.

    It starts and ends at 1 / ratio.
    """
    if not 0 < cut < 1:
        raise InputError(f"schedule.cut ({cut}) must be between 0 and 1, a fraction of the budget")
    if ratio < 1:
        raise InputError(f"schedule.ratio ({ratio}) must be at least 1")
    height = progress / cut if progress < cut else max(0.0, (1 - progress) / (1 - cut))
    return (1 + height * (ratio - 1)) / ratio


def _check_final(final: float) -> None:
    if final < 0:
        raise InputError(f"schedule.final ({final}) must be at least 0")


def _ramp(progress: float, step: int, warmup: float) -> float:
    """Up to 1 over the warm-up. Counted in steps, the first one already moves: (step + 1) / warmup."""
    if warmup < 0:
        raise InputError(f"schedule.warmup ({warmup}) must be 0 or more")
    if warmup == 0:
        return 1.0
    return min(1.0, progress / warmup if warmup < 1 else (step + 1) / warmup)


def _past(progress: float, warmup: float) -> float:
    """The fraction of the budget used since the end of a fractional warm-up, from 0 to 1.

    A warm-up in steps has no place on this scale: the fall then runs over the whole budget.
    """
    start = warmup if warmup < 1 else 0.0
    return min(1.0, max(0.0, (progress - start) / (1 - start)))
