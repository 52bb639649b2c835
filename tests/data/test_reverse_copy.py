"""data=reverse_copy: what it makes, again and again the same."""

import pytest

from llmcli.data.readers.reverse_copy import ReverseCopy
from llmcli.errors import InputError

OPTIONS = {"train": 300, "val": 20, "test": 0, "letters": 5, "shortest": 2, "longest": 6, "seed": 0}


def make(**changes):
    return ReverseCopy(**{**OPTIONS, **changes})


def test_targets_are_sources_turned_round():
    records = list(make().records("train"))
    assert len(records) == 300 and make().splits == ("train", "val")
    assert all(record.target == record.source[::-1] for record in records)
    assert {len(record.source) for record in records} == {2, 3, 4, 5, 6}
    assert set("".join(record.source for record in records)) == set("abcde")


def test_the_same_for_a_seed_whatever_the_other_splits():
    val = list(make().records("val"))
    assert val == list(make(train=5).records("val"))
    assert val != list(make(seed=1).records("val")) and val != list(make().records("train"))[:20]
    assert make().fingerprint() == make().fingerprint() != make(letters=6).fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val": -1}, r"data.val \(-1\) must be at least 0"),
        ({"letters": 27}, r"data.letters \(27\) must be between 1 and 26"),
        ({"shortest": 0}, r"data.shortest \(0\)"),
        ({"shortest": 7}, r"data.shortest \(7\) must be at least 1 and at most data.longest \(6\)"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)
