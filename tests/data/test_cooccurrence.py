"""Counts of words near each other: as a count by hand gives them, each once an epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data import cooccurrence
from llmcli.data.cooccurrence import CELL, CellBatches, cells_of
from llmcli.errors import InputError

RESERVED, EOS, VOCAB = 4, 3, 12
few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def by_hand(ids, window):
    counts = Counter()
    document, words = 0, []
    for index in ids:
        document += index == EOS
        if index >= RESERVED:
            words.append((index, document))
    for place, (word, where) in enumerate(words):
        for distance in range(1, window + 1):
            if distance <= place and words[place - distance][1] == where:
                other = words[place - distance][0]
                counts[word, other] += 1 / distance
                counts[other, word] += 1 / distance
    return counts


@given(
    ids=st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=120),
    window=st.integers(1, 6),
    at_once=st.integers(1, 50),
)
@few
def test_counts_are_those_by_hand_however_the_text_is_read(shards, tmp_path_factory, ids, window, at_once):
    expected = by_hand(ids, window)
    path = tmp_path_factory.mktemp("cells") / "cells.bin"
    options = {"vocab_size": VOCAB, "reserved": RESERVED, "boundary": EOS, "window": window}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "COUNTED_AT_ONCE", at_once)
        if not expected:
            with pytest.raises(InputError, match="no two words stand near each other"):
                cells_of(shards(ids), path, **options)
            return
        cells = cells_of(shards(ids), path, **options)
    found = {(int(cell["row"]), int(cell["column"])): float(cell["count"]) for cell in cells}
    assert len(found) == len(cells) and found.keys() == expected.keys()
    for key, count in expected.items():
        assert found[key] == pytest.approx(count, rel=1e-5)


def test_what_was_counted_is_read_again(shards, tmp_path):
    path, options = tmp_path / "cells.bin", {"vocab_size": VOCAB, "reserved": RESERVED, "boundary": EOS, "window": 2}
    first = cells_of(shards([5, 6, 7, 5]), path, **options)
    second = cells_of(shards([9, 9]), path, **options)  # the text is not looked at
    assert np.array_equal(first, second)


def cells(count):
    found = np.zeros(count, CELL)
    found["row"], found["count"] = np.arange(count), 1.0
    return found


@given(count=st.integers(1, 200), size=st.integers(1, 40), world=st.integers(1, 3), group=st.integers(1, 3))
@few
def test_an_epoch_has_no_cell_twice_and_almost_every_one(count, size, world, group):
    plans = [
        CellBatches(cells(count), size=size, text_tokens=9, seed=4, group=group, rank=rank, world=world)
        for rank in range(world)
    ]
    assert len(plans[0]) % group == 0 and len({len(plan) for plan in plans}) == 1
    for epoch in range(2):
        rows = [plan.batch(epoch, number)["rows"] for plan in plans for number in range(len(plan))]
        if not rows:
            assert count < size * world * group
            continue
        seen = torch.cat(rows)
        assert len(seen) == len(seen.unique()) == len(plans[0]) * size * world
        assert count - len(seen) < size * world * group


def test_epochs_differ_and_a_batch_is_a_function_of_its_number():
    plan, other = (CellBatches(cells(1000), size=10, text_tokens=9, seed=4) for _ in range(2))
    assert not torch.equal(plan.batch(0, 3)["rows"], plan.batch(1, 3)["rows"])
    assert torch.equal(plan.batch(5, 7)["rows"], other.batch(5, 7)["rows"])


def test_evaluation_has_every_cell_once():
    plans = [CellBatches(cells(103), size=10, text_tokens=9, seed=None, rank=rank, world=2) for rank in range(2)]
    rows = torch.cat([plan.batch(0, number)["rows"] for plan in plans for number in range(len(plan))])
    assert rows.sort().values.tolist() == list(range(103))
