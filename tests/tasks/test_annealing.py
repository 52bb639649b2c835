"""The weight of the KL term: 0, then a rise, then whole, at the shares of the budget that are named."""

from __future__ import annotations

import math

import pytest

from llmcli.errors import InputError
from llmcli.tasks.annealing import Annealing

USUAL = {"shape": "linear", "start": 0.2, "end": 0.6, "weight": 1.0, "cycles": 1}


def weights(*places, **changes):
    anneal = Annealing(**{**USUAL, **changes})
    return [anneal(place) for place in places]


def test_linear():
    assert weights(0, 0.2, 0.3, 0.4, 0.6, 1) == pytest.approx([0, 0, 0.25, 0.5, 1, 1])
    assert weights(0.4, 1, weight=0.5) == pytest.approx([0.25, 0.5])


def test_sigmoid_is_an_s_from_nothing_to_everything():
    assert weights(0.2, 0.4, 0.6, shape="sigmoid") == pytest.approx([0, 0.5, 1])
    low, high = weights(0.3, 0.5, shape="sigmoid")
    assert low == pytest.approx(1 - high) and low < 0.25
    logistic = [1 / (1 + math.exp(-x)) for x in (-6, -3, 6)]
    assert low == pytest.approx((logistic[1] - logistic[0]) / (logistic[2] - logistic[0]))


def test_cycles_rise_through_their_first_half_and_begin_again():
    places = [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.999, 1.0]
    found = weights(*places, shape="cyclical", start=0.0, end=1.0, cycles=2)
    assert found == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1, 1])


def test_whole_from_the_beginning():
    assert weights(0, 0.5, 1, start=0.0, end=0.0) == [1, 1, 1]
    assert weights(0, 0.5, 1, start=1.0, end=1.0) == [0, 0, 1]  # an autoencoder to the last


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": "step"}, "task.kl.shape (step) must be one of linear, sigmoid, cyclical"),
        ({"start": 0.7}, "task.kl.start (0.7) and task.kl.end (0.6) are shares"),
        ({"end": 1.5}, "task.kl.end (1.5)"),
        ({"weight": -1.0}, "task.kl.weight (-1.0) must be at least 0"),
        ({"cycles": 0}, "task.kl.cycles (0) must be at least 1"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(InputError) as refused:
        weights(0, **changes)
    assert message in str(refused.value)
