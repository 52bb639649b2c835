"""Noise on texts: how much goes, how far tokens move, and what stays."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.layers.noise import corrupted, hidden_words


def rows(*lengths):
    """ids that rise through each row, and their mask."""
    longest = max(lengths)
    ids = torch.arange(1, longest + 1).repeat(len(lengths), 1)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return ids * mask, mask


def test_without_noise_nothing_changes():
    ids, mask = rows(5, 1, 3)
    found, real = corrupted(ids, mask, drop=0.0, shuffle=0)
    assert torch.equal(real, mask) and torch.equal(found * real, ids)


@settings(max_examples=30)
@given(st.integers(0, 4), st.integers(0, 10**6))
def test_a_token_moves_at_most_so_many_places_and_the_end_stays(shuffle, seed):
    ids, mask = rows(9, 6, 2)
    found, real = corrupted(ids, mask, drop=0.0, shuffle=shuffle, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(real, mask)
    for row, length in zip(found, (9, 6, 2), strict=True):
        kept = row[:length]
        assert kept.sort().values.tolist() == list(range(1, length + 1)) and kept[-1] == length
        assert int((kept - torch.arange(1, length + 1)).abs().max()) <= shuffle


def test_shuffling_reaches_as_far_as_it_may():
    ids, mask = rows(*[12] * 500)
    found, _ = corrupted(ids, mask, drop=0.0, shuffle=3, generator=torch.Generator().manual_seed(0))
    assert int((found - torch.arange(1, 13)).abs().max()) == 3


def test_so_many_tokens_are_taken_out_and_the_rest_keeps_its_order():
    ids, mask = rows(*[41] * 300)
    found, real = corrupted(ids, None, drop=0.3, shuffle=0, generator=torch.Generator().manual_seed(0))
    assert abs(float((real.sum(1) - 1).float().mean()) / 40 - 0.7) < 0.01
    for row, kept in zip(found, real, strict=True):
        assert bool((row[kept].diff() > 0).all()) and row[kept][-1] == 41
    everything, real = corrupted(ids, mask, drop=0.999999, shuffle=0, generator=torch.Generator().manual_seed(0))
    assert real.sum(1).tolist() == [1] * 300 and everything[:, 0].tolist() == [41] * 300


def test_hidden_words_are_masked_but_for_the_first():
    ids, _ = rows(*[50] * 400)
    found = hidden_words(ids, rate=0.4, mask_id=99, generator=torch.Generator().manual_seed(0))
    hidden = found == 99
    assert torch.equal(found.where(~hidden, ids), ids) and not bool(hidden[:, 0].any())
    assert abs(float(hidden[:, 1:].float().mean()) - 0.4) < 0.01
    assert torch.equal(hidden_words(ids, rate=0.0, mask_id=99), ids)
