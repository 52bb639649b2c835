from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data.shards import id_dtype
from llmcli.errors import InputError

IDS = np.arange(100) * 7 % 1000


@pytest.fixture(params=[[100], [1, 99], [40, 30, 30], [7] * 14 + [2]])
def tokens(shards, request):
    """IDS in one or several shards."""
    return shards(IDS, request.param)


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_and_gather_do_not_depend_on_the_shards(tokens, data):
    count = data.draw(st.integers(1, 100))
    starts = np.array(data.draw(st.lists(st.integers(0, 100 - count), min_size=1, max_size=5)))
    assert len(tokens) == 100
    np.testing.assert_array_equal(tokens.gather(starts, count), [IDS[s : s + count] for s in starts])
    np.testing.assert_array_equal(tokens.read(int(starts[0]), count), IDS[starts[0] : starts[0] + count])


def test_document_ends_count_from_the_start_of_the_split(shards):
    np.testing.assert_array_equal(shards(IDS, [40, 30, 30]).document_ends, [40, 70, 100])


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (99, 2), (0, 101), (0, -1)])
def test_tokens_that_do_not_exist(shards, start, count):
    with pytest.raises(IndexError):
        shards(range(100), [50, 50]).read(start, count)


def test_shards_are_read_only_and_travel_as_paths(shards):
    tokens = shards(range(1000))
    sent = pickle.dumps(tokens)
    assert len(sent) < 1000  # bytes: not the 2,000 of the ids
    np.testing.assert_array_equal(pickle.loads(sent).read(0, 1000), np.arange(1000))
    with pytest.raises(ValueError, match="read-only"):
        tokens.read(0, 10)[0] = 1


def test_the_id_type_holds_every_id(shards):
    assert np.iinfo(id_dtype(65_535)).max >= 65_534
    assert np.iinfo(id_dtype(65_536)).max >= 65_535
    assert id_dtype(65_536) == "<u4"
    np.testing.assert_array_equal(shards([70_000], dtype="<u4").read(0, 1), [70_000])


def test_a_shard_of_another_length_is_named(shards):
    tokens = shards(range(100))
    path = tokens.files[0].path
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"damaged: .*0.ids has 197 bytes instead of 200") as caught:
        type(tokens)(tokens.files, tokens.dtype)
    assert caught.value.hint == f"delete {path.parent}; the next run prepares it again"
    path.unlink()
    with pytest.raises(InputError, match=r"0.ids is missing"):
        type(tokens)(tokens.files, tokens.dtype)
