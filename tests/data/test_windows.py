"""Tokens in these tests are 0, 1, 2, ...: a token is its own place."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data.windows import EvaluationStreams, EvaluationWindows, TrainingWindows
from llmcli.losses import IGNORED

few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def batches(plan, epoch=0):
    return [plan.batch(epoch, number) for number in range(len(plan))]


def check_shifted(batch):
    """ids (B, T) are places, so every scored label is its input's place + 1."""
    scored = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][scored], batch["ids"][scored] + 1)
    assert batch["n_tokens"] == int(scored.sum()) and isinstance(batch["n_tokens"], int)
    assert batch["ids"].dtype == batch["labels"].dtype == torch.int64
    assert batch["ids"].is_contiguous() and batch["labels"].is_contiguous()


def labels(found):
    return torch.cat([batch["labels"][batch["labels"] != IGNORED] for batch in found])


@given(
    count=st.integers(2, 400),
    size=st.integers(1, 5),
    seq_len=st.integers(1, 40),
    contiguous=st.booleans(),
    data=st.data(),
)
@few
def test_an_epoch_scores_no_token_twice_and_almost_every_one(shards, count, size, seq_len, contiguous, data):
    world, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    tokens = shards(range(count))
    plans = [
        TrainingWindows(
            tokens, size=size, seq_len=seq_len, seed=3, contiguous=contiguous, group=group, rank=rank, world=world
        )
        for rank in range(world)
    ]
    assert len(plans[0]) % group == 0
    for epoch in range(2):
        found = [batch for plan in plans for batch in batches(plan, epoch)]
        if not found:
            assert count - 1 < size * seq_len * group * world
            continue
        for batch in found:
            check_shifted(batch)
            assert batch["ids"].shape == (size, seq_len) and batch["n_tokens"] == size * seq_len
            assert "mask" not in batch
        scored = labels(found)
        assert len(scored) == len(scored.unique())
        assert count - 1 - len(scored) < size * seq_len * group * world


def test_windows_are_cut_and_ordered_anew_each_epoch(shards):
    plan = TrainingWindows(shards(range(1000)), size=3, seq_len=16, seed=3, contiguous=False)
    first, second = batches(plan, 0), batches(plan, 1)
    cuts = [int(found[0]["ids"][0, 0]) % 16 for found in (first, second)]
    assert cuts[0] != cuts[1]
    assert [int(batch["ids"][0, 0]) for batch in first] != sorted(int(batch["ids"][0, 0]) for batch in first)
    again = TrainingWindows(shards(range(1000)), size=3, seq_len=16, seed=3, contiguous=False)
    other = TrainingWindows(shards(range(1000)), size=3, seq_len=16, seed=4, contiguous=False)
    assert all(torch.equal(a["ids"], b["ids"]) for a, b in zip(second, batches(again, 1), strict=True))
    assert not all(torch.equal(a["ids"], b["ids"]) for a, b in zip(second, batches(other, 1), strict=True))


@pytest.mark.parametrize("world", [1, 2])
def test_contiguous_rows_go_on_where_they_stopped(shards, world):
    tokens = shards(range(1000))
    for rank in range(world):
        plan = TrainingWindows(tokens, size=4, seq_len=16, seed=3, contiguous=True, rank=rank, world=world)
        for epoch in range(2):
            found = batches(plan, epoch)
            assert [batch["reset"] for batch in found] == [True] + [False] * (len(found) - 1)
            for before, after in pairwise(found):
                assert torch.equal(after["ids"][:, 0], before["labels"][:, -1])


def test_batches_are_numbered_through_all_epochs(shards):
    plan = TrainingWindows(shards(range(1000)), size=4, seq_len=16, seed=3, contiguous=False)
    assert [batch["index"] for epoch in range(2) for batch in batches(plan, epoch)] == list(range(2 * len(plan)))


@given(count=st.integers(2, 300), size=st.integers(1, 5), seq_len=st.integers(1, 40), data=st.data())
@few
def test_evaluation_scores_every_label_once(shards, count, size, seq_len, data):
    stride, world = data.draw(st.integers(1, seq_len)), data.draw(st.integers(1, 3))
    tokens = shards(range(count))
    found = []
    for rank in range(world):
        plan = EvaluationWindows(tokens, size=size, seq_len=seq_len, stride=stride, pad_id=0, rank=rank, world=world)
        found += batches(plan)
    for batch in found:
        check_shifted(batch)
        assert batch["ids"].shape[1] == seq_len and 1 <= len(batch["ids"]) <= size
        mask = batch.get("mask", torch.ones_like(batch["ids"], dtype=torch.bool))
        assert not mask.all() or "mask" not in batch
        assert ((batch["labels"] == IGNORED) | mask).all()
        # the rows of windows after the first see at least seq_len - stride tokens before what they score
        for row, scored in zip(batch["ids"], batch["labels"] != IGNORED, strict=True):
            if row[0] > 0:
                assert int(torch.nonzero(scored)[0]) == seq_len - stride
    assert labels(found).sort().values.tolist() == list(range(1, count))


@given(count=st.integers(2, 300), size=st.integers(1, 5), seq_len=st.integers(1, 40), data=st.data())
@few
def test_streams_score_every_label_once_and_go_on(shards, count, size, seq_len, data):
    world = data.draw(st.integers(1, 3))
    found = []
    for rank in range(world):
        plan = EvaluationStreams(shards(range(count)), size=size, seq_len=seq_len, pad_id=0, rank=rank, world=world)
        own = batches(plan)
        for batch in own:
            check_shifted(batch)
        assert [batch["reset"] for batch in own] == [True] * bool(own) + [False] * (len(own) - 1)
        for before, after in pairwise(own):
            real = after["labels"][:, 0] != IGNORED
            assert torch.equal(after["ids"][real, 0], before["labels"][real, -1])
        found += own
    assert labels(found).sort().values.tolist() == list(range(1, count))


def test_padding_is_the_pad_id_and_masked(shards):
    plan = EvaluationWindows(shards(range(100, 110)), size=4, seq_len=6, stride=6, pad_id=0)
    (batch,) = batches(plan)
    assert batch["ids"].tolist() == [[100, 101, 102, 103, 104, 105], [106, 107, 108, 0, 0, 0]]
    assert batch["labels"].tolist() == [[101, 102, 103, 104, 105, 106], [107, 108, 109] + [IGNORED] * 3]
    assert batch["mask"].tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    assert batch["n_tokens"] == 9


def test_batches_across_shards_are_those_of_one_shard(shards):
    ids = np.arange(500) % 97
    cut = TrainingWindows(shards(ids, [3, 200, 297]), size=3, seq_len=16, seed=3, contiguous=False)
    expected = batches(cut)
    whole = TrainingWindows(shards(ids), size=3, seq_len=16, seed=3, contiguous=False)
    assert all(torch.equal(a["ids"], b["ids"]) for a, b in zip(expected, batches(whole), strict=True))


@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=12), seq_len=st.integers(1, 17), size=st.integers(1, 4)
)
@few
def test_the_document_of_each_token_is_known_where_none_looks_into_another(shards, lengths, seq_len, size):
    total = sum(lengths)
    tokens = shards(range(total), lengths)
    document = np.repeat(np.arange(len(lengths)), lengths)
    plans = [EvaluationWindows(tokens, size=size, seq_len=seq_len, stride=max(1, seq_len // 2), pad_id=0, apart=True)]
    if (total - 1) // seq_len >= size:
        plans.append(TrainingWindows(tokens, size=size, seq_len=seq_len, seed=3, contiguous=False, apart=True))
    for plan in plans:
        for batch in batches(plan):
            real = batch.get("mask", torch.ones_like(batch["ids"], dtype=torch.bool))
            of = torch.from_numpy(document)[batch["ids"]]
            relative = of - of[:, :1]
            assert torch.equal(batch["segment_ids"][real], relative[real])
            check_shifted(batch)  # the first token of a document stays a label
