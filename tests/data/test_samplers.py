from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.data.samplers import Balanced, EvaluationBatches, Shuffled, TrainingBatches, Weighted

LENGTHS = np.random.default_rng(3).integers(1, 60, 500)
SIZES = {"size": 8, "max_tokens": None, "pool": 1}
KINDS = [SIZES, {**SIZES, "pool": 10}, {**SIZES, "max_tokens": 160, "pool": 10}, {**SIZES, "max_tokens": 160}]


def training(order=None, lengths=LENGTHS, seed=1, **changes):
    order = order or Shuffled(np.arange(len(lengths)), seed=seed)
    return TrainingBatches(order, lengths, **{**SIZES, "seed": seed, **changes})


def batches(plan, epoch=0):
    return [plan.numbers(epoch, number)[0] for number in range(len(plan))]


def counts(order, epoch=0):
    return Counter(order.numbers(epoch).tolist())


# -- orders ---------------------------------------------------------------------------------------------------------


def test_shuffled_shows_everything_once_in_another_order_each_epoch():
    order = Shuffled(np.arange(100), seed=1)
    first, second = order.numbers(0), order.numbers(1)
    assert sorted(first) == sorted(second) == list(range(100)) and first.tolist() != second.tolist()
    np.testing.assert_array_equal(order.numbers(0), first)
    assert Shuffled(np.arange(100), seed=2).numbers(0).tolist() != first.tolist()


GROUPS = np.array([0] * 70 + [1] * 25 + [2] * 5)


def test_over_sampling_shows_every_group_exactly_as_often_as_the_largest():
    order = Balanced(np.arange(100), GROUPS, each=70, seed=1)
    shown = order.numbers(0)
    assert len(order) == len(shown) == 210 and Counter(GROUPS[shown].tolist()) == {0: 70, 1: 70, 2: 70}
    times = counts(order)
    assert {times[n] for n in range(70)} == {1}
    assert {times[n] for n in range(70, 95)} == {2, 3} and sum(times[n] == 3 for n in range(70, 95)) == 20
    assert {times[n] for n in range(95, 100)} == {14}
    assert times != counts(order, 1), "the rest is drawn anew"


def test_under_sampling_shows_every_group_exactly_as_often_as_the_smallest():
    order = Balanced(np.arange(100), GROUPS, each=5, seed=1)
    shown = order.numbers(0)
    assert Counter(GROUPS[shown].tolist()) == {0: 5, 1: 5, 2: 5} and len(set(shown)) == 15
    seen = {number for epoch in range(200) for number in order.numbers(epoch)}
    assert seen == set(range(100)), "in the long run nothing is left out"


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40).filter(any), st.integers(0, 5))
def test_weighted_numbers_are_the_expected_ones_rounded_up_or_down(weights, epoch):
    weights = np.array(weights)
    order = Weighted(np.arange(len(weights)), weights, seed=1)
    times = counts(order, epoch)
    expected = len(weights) * weights / weights.sum()
    assert len(order) == times.total() == len(weights)
    for number, mean in enumerate(expected):
        assert np.floor(mean - 1e-6) <= times[number] <= np.ceil(mean + 1e-6)


def test_what_weighted_rounds_evens_out():
    weights = np.array([1, 1, 1, 1, 2, 0.5])
    order = Weighted(np.arange(6), weights, seed=1)
    total = sum((counts(order, epoch) for epoch in range(600)), Counter())
    np.testing.assert_allclose([total[n] / 600 for n in range(6)], 6 * weights / weights.sum(), atol=0.06)


# -- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("world", [1, 3])
def test_ranks_share_an_epoch_evenly_and_no_example_is_shown_twice(kind, group, world):
    for epoch in range(3):
        ranks = [training(**kind, group=group, rank=rank, world=world) for rank in range(world)]
        assert len({len(each) for each in ranks}) == 1 and len(ranks[0]) % group == 0
        shown = [each for rank in ranks for each in batches(rank, epoch)]
        flat = np.concatenate(shown).tolist()
        assert len(flat) == len(set(flat)) >= len(LENGTHS) - 8 * group * world
        for each in shown:
            assert 1 <= len(each) <= 8
            if kind["max_tokens"]:
                assert LENGTHS[each].max() * len(each) <= 160


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_follows_from_seed_epoch_and_number_alone(kind):
    order = Balanced(np.arange(500), np.arange(500) % 7 % 3, each=250, seed=5)
    whole = [each.tolist() for each in batches(training(order, seed=5, **kind), 4)]
    fresh = training(order, seed=5, **kind)  # asked for one batch alone, after another epoch
    fresh.numbers(0, 2)
    assert fresh.numbers(4, 11)[0].tolist() == whole[11]
    assert batches(training(order, seed=6, **kind), 4)[11].tolist() != whole[11]
    assert batches(training(order, seed=5, **kind), 5)[11].tolist() != whole[11]


@pytest.mark.parametrize("world", [1, 3])
def test_the_showings_of_an_example_are_counted(world):
    order = Balanced(np.arange(100), GROUPS, each=70, seed=1)
    ranks = [training(order, LENGTHS, rank=rank, world=world) for rank in range(world)]
    found = [plan.numbers(0, number) for plan in ranks for number in range(len(plan))]
    pairs = [pair for numbers, showings in found for pair in zip(numbers.tolist(), showings.tolist(), strict=True)]
    assert len(pairs) == len(set(pairs)) > 190
    times = counts(order)
    assert all(0 <= showing < times[number] for number, showing in pairs)


def padding(plan):
    shown = batches(plan)
    return 1 - sum(LENGTHS[each].sum() for each in shown) / sum(LENGTHS[each].max() * len(each) for each in shown)


def test_pools_save_padding_and_batches_come_in_no_order_of_length():
    plan = training(pool=20)
    assert padding(plan) < 0.1 < 0.35 < padding(training())
    longest = [int(LENGTHS[each].max()) for each in batches(plan)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))
    assert padding(training(pool=5)) > padding(plan)


def test_an_epoch_has_as_many_batches_as_the_first_whatever_its_examples_fill():
    lengths = np.array([1] * 90 + [40] * 10)
    order = Weighted(np.arange(100), np.where(lengths == 1, 0.51, 1.49), seed=1)
    plan = training(order, lengths, size=100, max_tokens=40, pool=100)
    numbers = [len(plan._cut(epoch)[1]) for epoch in range(30)]
    assert min(numbers) < len(plan) < max(numbers), "the case is one where they differ"
    for epoch in range(30):
        found = batches(plan, epoch)
        assert all(len(each) and lengths[each].max() * len(each) <= 40 for each in found)
        shown = sum(map(len, found))
        assert shown == 100 if numbers[epoch] <= len(plan) else shown < 100


@pytest.mark.parametrize("max_tokens", [None, 160])
@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_shows_every_example_once(max_tokens, world):
    found = [
        each
        for rank in range(world)
        for each in batches(EvaluationBatches(LENGTHS, size=8, max_tokens=max_tokens, rank=rank, world=world))
    ]
    assert sorted(np.concatenate(found).tolist()) == list(range(500))
    assert all(len(each) <= 8 for each in found)
    assert max_tokens is None or all(LENGTHS[each].max() * len(each) <= 160 for each in found)


@pytest.mark.parametrize("max_tokens", [None, 160])
def test_every_rank_scores_something_of_a_split_that_fills_fewer_batches(max_tokens):
    plans = [EvaluationBatches(LENGTHS[:5], size=8, max_tokens=max_tokens, rank=rank, world=4) for rank in range(4)]
    assert [len(plan) for plan in plans] == [1, 1, 1, 1]
    assert sorted(np.concatenate([each for plan in plans for each in batches(plan)]).tolist()) == list(range(5))


def test_the_first_evaluation_batches_are_a_sample_of_all():
    labels = np.arange(500) // 250  # as a file has them that lists one class after the other
    plan = EvaluationBatches(LENGTHS, size=8, max_tokens=None)
    first = np.concatenate(batches(plan)[:20])
    assert abs(LENGTHS[first].mean() - LENGTHS.mean()) < 6 and abs(labels[first].mean() - 0.5) < 0.1
