from __future__ import annotations

import itertools
import os
import signal
import threading

import pytest
import torch

from llmcli.data import loader as loaders
from llmcli.data.loader import AHEAD, EpochLoader, PlanLoader, made_ahead
from llmcli.data.windows import EvaluationWindows, TrainingWindows


@pytest.fixture
def loader(shards):
    tokens = shards(range(1000))

    def make(contiguous=False, num_workers=0, seed=5):
        plan = TrainingWindows(tokens, size=4, seq_len=16, seed=seed, contiguous=contiguous)
        return PlanLoader(plan, num_workers=num_workers)

    return make


def take(loader, count):
    """The next `count` batches as a training loop sees them: epoch after epoch."""
    found = []
    while len(found) < count:
        found += itertools.islice(loader, count - len(found))
    return found


def equal(one, two):
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [4, 15, 20])  # an epoch is 15 batches
def test_a_loader_that_loads_the_state_gives_the_remaining_batches(loader, contiguous, num_workers, stop):
    expected = take(loader(contiguous), 34)
    stopped = loader(contiguous, num_workers)
    assert len(stopped) == 15
    assert equal(take(stopped, stop), expected[:stop])
    resumed = loader(contiguous, num_workers)
    resumed.load_state_dict(stopped.state_dict())
    assert len(resumed) == 15  # of a whole epoch, wherever it stands
    assert equal(take(resumed, 34 - stop), expected[stop:])


def test_the_state_counts_what_was_handed_over(loader):
    for num_workers in (0, 2):
        running = loader(num_workers=num_workers)
        batches = iter(running)
        for _ in range(3):
            next(batches)
        assert running.state_dict() == {"epoch": 0, "position": 3}


def test_finding_the_place_reads_no_batch_before_it(loader, monkeypatch):
    resumed = loader()
    resumed.load_state_dict({"epoch": 7, "position": 11})
    asked = []
    make = resumed.plan.batch
    monkeypatch.setattr(resumed.plan, "batch", lambda *place: asked.append(place) or make(*place))
    next(iter(resumed))
    assert asked == [(7, 11)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_global_generators_are_left_alone(loader, shards, num_workers):
    state = torch.get_rng_state()
    take(loader(num_workers=num_workers), 20)
    plan = EvaluationWindows(shards(range(100)), size=4, seq_len=16, stride=16, pad_id=0)
    list(EpochLoader(plan, num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_is_the_same_every_time(shards):
    plan = EvaluationWindows(shards(range(100)), size=4, seq_len=16, stride=8, pad_id=0)
    running = EpochLoader(plan, num_workers=0)
    first = list(running)
    next(iter(running))  # abandoned after one batch
    assert equal(list(running), first) and len(first) == len(running)


def test_workers_leave_signals_to_the_parent(loader, monkeypatch):
    running = loader(num_workers=2)
    monkeypatch.setattr(running.plan, "batch", _signal_itself)
    assert next(iter(running)) == "alive"


def _signal_itself(epoch, number):
    for kind in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), kind)
    return "alive"


def test_batches_for_a_gpu_are_made_ahead_and_the_place_is_that_of_the_last_handed_over(loader, monkeypatch):
    monkeypatch.setattr(loaders, "pinned", lambda batch: batch)  # pinning needs the GPU
    plain, ahead = loader(), loader()
    ahead.pin = True
    assert equal(take(ahead, 2 * len(ahead) + 3), take(plain, 2 * len(plain) + 3))
    assert ahead.state_dict() == plain.state_dict()
    resumed = loader()
    resumed.load_state_dict(ahead.state_dict())
    assert equal(take(resumed, 4), take(plain, 4))


def test_a_thread_is_so_many_batches_ahead_and_ends_with_the_iteration():
    made, begun = [], threading.active_count()
    arrived = threading.Semaphore(0)

    def batches():
        for number in range(100):
            made.append(number)
            arrived.release()
            yield {"index": number}

    ahead = made_ahead(batches(), lambda batch: {**batch, "ready": True})
    assert next(ahead) == {"index": 0, "ready": True}
    for _ in range(AHEAD + 2):  # the one handed over, those that wait, and one that waits for a place
        assert arrived.acquire(timeout=5)
    assert made == list(range(AHEAD + 2))
    ahead.close()
    assert threading.active_count() == begun


def test_an_error_of_the_thread_comes_where_its_batch_would_have_come():
    def batches():
        yield {"index": 0}
        raise OSError("the disk is gone")

    ahead = made_ahead(batches(), lambda batch: batch)
    assert next(ahead) == {"index": 0}
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
