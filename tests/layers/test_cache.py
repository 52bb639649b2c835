"""The cache holds what was appended, at the right positions, whatever the rows' lengths."""

import pytest
import torch

from llmcli.errors import InputError
from llmcli.layers import cache as cache_file
from llmcli.layers.cache import KVCache

LAYERS, BATCH, HEADS, HEAD_SIZE = 2, 3, 2, 4


def empty(capacity=8, batch_size=BATCH):
    return KVCache.empty(
        n_layers=LAYERS, batch_size=batch_size, n_kv_heads=HEADS, capacity=capacity, head_size=HEAD_SIZE
    )


def tokens(n_new, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, BATCH, HEADS, n_new, HEAD_SIZE, generator=generator)


def append(cache, kv):
    for layer in range(LAYERS):
        keys, values = cache.append(layer, kv[0] + layer, kv[1] + layer)
    return keys, values


def test_uniform_rows_hold_what_was_appended_in_order():
    cache, first, second = empty(), tokens(3), tokens(2, seed=1)
    append(cache, first)
    cache.advance(3)
    assert cache.uniform == 3
    keys, values = append(cache, second)
    cache.advance(2)
    torch.testing.assert_close(keys, torch.cat([first[0], second[0]], dim=2) + 1)
    torch.testing.assert_close(values, torch.cat([first[1], second[1]], dim=2) + 1)
    torch.testing.assert_close(cache.keys[0, :, :, :5], torch.cat([first[0], second[0]], dim=2))
    assert cache.lengths.tolist() == [5, 5, 5]


def test_ragged_rows_overwrite_their_padding():
    cache, first, second = empty(), tokens(3), tokens(2, seed=1)
    append(cache, first)
    cache.advance(torch.tensor([3, 1, 0]))
    assert cache.uniform is None
    assert cache.positions(2).tolist() == [[3, 4], [1, 2], [0, 1]]
    keys, _ = append(cache, second)
    for row, length in enumerate([3, 1, 0]):
        real = torch.cat([first[0, row, :, :length], second[0, row]], dim=1) + 1
        torch.testing.assert_close(keys[row, :, : length + 2], real)


def test_mask_shows_each_query_the_positions_up_to_its_own():
    cache = empty()
    append(cache, tokens(3))
    cache.advance(torch.tensor([3, 1, 0]))
    mask = cache.mask(2)
    assert mask.shape == (BATCH, 1, 2, 5)
    assert mask.sum(-1).tolist() == [[[4, 5]], [[2, 3]], [[1, 2]]]
    keys, _ = append(cache, tokens(2))
    assert keys.shape[2] == mask.shape[-1]


def test_padding_past_the_capacity_is_dropped_and_real_tokens_there_are_refused():
    cache = empty(capacity=4)
    append(cache, tokens(3))
    cache.advance(torch.tensor([3, 1, 3]))
    keys, _ = append(cache, second := tokens(3, seed=1))
    assert keys.shape[2] == cache.mask(3).shape[-1] == 4
    torch.testing.assert_close(keys[0, :, 3], second[0, 0, :, 0] + 1)
    torch.testing.assert_close(keys[1, :, 1:], second[0, 1] + 1)
    with pytest.raises(InputError, match="5 tokens do not fit the cache's capacity of 4"):
        cache.advance(torch.tensor([1, 3, 2]))
    cache.advance(torch.tensor([1, 3, 1]))
    assert cache.uniform == 4


def test_uniform_rows_refuse_what_does_not_fit():
    cache = empty(capacity=2)
    append(cache, tokens(3))
    with pytest.raises(InputError, match="3 tokens do not fit the cache's capacity of 2"):
        cache.advance(3)


def test_reorder_takes_rows_and_may_change_their_number():
    cache = empty()
    append(cache, tokens(3))
    cache.advance(torch.tensor([3, 1, 2]))
    picked = cache.reorder(torch.tensor([2, 2, 0, 1]))
    assert picked.lengths.tolist() == [2, 2, 3, 1]
    torch.testing.assert_close(picked.keys[:, 2], cache.keys[:, 0])
    assert cache.reorder(torch.tensor([0])).uniform == 3


def test_clone_is_independent_and_truncate_forgets():
    cache = empty()
    append(cache, tokens(3))
    cache.advance(3)
    copy = cache.clone()
    append(copy, tokens(1, seed=2))
    copy.advance(1)
    assert cache.lengths.tolist() == [3, 3, 3]
    assert not cache.keys[:, :, :, 3].any()
    short = copy.truncate(torch.tensor([1, 1, 1]))
    keys, _ = append(short, second := tokens(1, seed=3))
    torch.testing.assert_close(keys, torch.cat([tokens(3)[0][:, :, :1], second[0]], dim=2) + 1)
    with pytest.raises(ValueError, match=r"cannot truncate rows of \[3, 3, 3\] tokens to \[4, 0, 0\]"):
        cache.truncate(torch.tensor([4, 0, 0]))


def test_capacity_must_be_positive():
    with pytest.raises(InputError, match="capacity \\(0\\) must be at least 1"):
        empty(capacity=0)


@pytest.mark.parametrize("lengths", [[3, 3, 3], [3, 1, 2]])
def test_a_token_allocates_nothing(lengths):
    """Room for the whole capacity is made at once where it is affordable, and neither it nor its views move."""
    cache = empty(capacity=64)
    append(cache, tokens(3))
    cache.advance(torch.tensor(lengths))
    place = cache.keys.data_ptr(), cache.values.data_ptr()
    for _ in range(50):
        keys, values = append(cache, tokens(1))
        cache.advance(1)
        assert (cache.keys.data_ptr(), cache.values.data_ptr()) == place
        assert (keys.data_ptr(), values.data_ptr()) == (cache.keys[-1].data_ptr(), cache.values[-1].data_ptr())


def test_room_for_a_large_capacity_is_made_as_it_is_needed(monkeypatch):
    monkeypatch.setattr(cache_file, "ROOM", 0)
    cache, reference = empty(capacity=100), tokens(40)
    assert cache.keys.shape[3] == cache_file.BLOCK
    for start in range(40):
        keys, _ = append(cache, reference[:, :, :, start : start + 1])
        cache.advance(1)
    assert cache.keys.shape[3] == 64
    torch.testing.assert_close(keys, reference[0] + LAYERS - 1)
