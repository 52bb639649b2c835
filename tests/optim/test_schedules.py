"""Schedules against their definitions and, where there is one, the scheduler of transformers."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from hydra.utils import instantiate

from llmcli.errors import InputError
from llmcli.optim.schedules import constant, cosine, inverse_sqrt, linear, slanted_triangular, wsd

STEPS = 200


def reference(name: str, **arguments: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = getattr(transformers, name)(optimizer, **arguments)
    rates = []
    for _ in range(STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "name", "arguments"),
    [
        (partial(constant, warmup=0.1), "get_constant_schedule_with_warmup", {}),
        (
            partial(linear, warmup=0.1, final=0.0),
            "get_linear_schedule_with_warmup",
            {"num_training_steps": STEPS},
        ),
        (
            partial(cosine, warmup=0.1, final=0.0),
            "get_cosine_schedule_with_warmup",
            {"num_training_steps": STEPS},
        ),
        (
            partial(wsd, warmup=0.1, decay=0.3, final=0.0),
            "get_wsd_schedule",
            {"num_training_steps": STEPS, "num_decay_steps": 60, "decay_type": "linear"},
        ),
    ],
)
def test_equals_transformers(ours, name, arguments):
    expected = reference(name, num_warmup_steps=20, **arguments)
    assert [ours(step / STEPS, step) for step in range(STEPS)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("step", [0, 1, 99, 100, 101, 4999])
def test_inverse_sqrt_is_the_papers_formula(step: int):
    """lrate = d_model^-0.5 * min(n^-0.5, n * warmup^-1.5), n from 1 (Vaswani et al. 2017, equation 3), peak 1."""
    n, warmup = step + 1, 100
    paper = min(n**-0.5, n * warmup**-1.5) / warmup**-0.5
    assert inverse_sqrt(0.5, step, warmup=warmup) == pytest.approx(paper)


def test_inverse_sqrt_by_fraction_uses_progress():
    assert inverse_sqrt(0.05, 7, warmup=0.1) == pytest.approx(0.5)
    assert inverse_sqrt(0.4, 7, warmup=0.1) == pytest.approx(0.5)


@pytest.mark.parametrize("step", [0, 10, 19, 20, 21, 150, 199])
def test_slanted_triangular_is_the_papers_formula(step: int):
    """Howard & Ruder (2018), equation 3, with cut = floor(T * cut_frac)."""
    cut_frac, ratio = 0.1, 32
    cut = math.floor(STEPS * cut_frac)
    p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / cut_frac - 1))
    paper = (1 + p * (ratio - 1)) / ratio
    assert slanted_triangular(step / STEPS, step, cut=cut_frac, ratio=ratio) == pytest.approx(paper)


@pytest.mark.parametrize("schedule", [linear, cosine, partial(wsd, decay=0.5)])
def test_ends_at_the_final_factor(schedule):
    assert schedule(1.0, 99, warmup=0.1, final=0.05) == pytest.approx(0.05)
    assert schedule(0.1, 10, warmup=0.1, final=0.05) == pytest.approx(1.0)


def test_warmup_in_steps_already_moves_at_the_first():
    assert [constant(0.0, step, warmup=4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: constant(0.0, 0, warmup=-1), r"schedule\.warmup \(-1\) must be 0 or more"),
        (lambda: inverse_sqrt(0.0, 0, warmup=0), r"schedule\.warmup \(0\) must be above 0"),
        (lambda: wsd(0.0, 0, warmup=0, decay=0, final=0), r"schedule\.decay \(0\) must be above 0"),
        (lambda: slanted_triangular(0.0, 0, cut=1.0, ratio=32), r"schedule\.cut \(1\.0\) must be between"),
    ],
)
def test_impossible_shapes_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs" / "schedule").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_option_stays_between_zero_and_one(path: Path):
    schedule = instantiate(yaml.safe_load(path.read_text(encoding="utf-8")))
    factors = [schedule(step / 1000, step) for step in range(1001)]
    assert min(factors) >= 0 and max(factors) == pytest.approx(1.0, abs=1e-3)
