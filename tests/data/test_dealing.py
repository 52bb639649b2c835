"""Records dealt to splits: exact shares, nothing lost or twice, copies together, old records stay where they are."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.data.dealing import DealtRecords
from llmcli.data.reader import Flaw
from llmcli.data.records import LabeledText, TextPair
from llmcli.errors import InputError


class Listed(DealtRecords):
    """Records from lists."""

    record = LabeledText

    def __init__(self, splits, **changes):
        settings = {
            "val_fraction": 0.1,
            "test_fraction": 0.0,
            "stratify": True,
            "seed": 0,
            "flaws": "error",
            "unseen_labels": "error",
        }
        super().__init__(**{**settings, **changes})
        self.lists = splits if isinstance(splits, dict) else {"train": splits}

    @property
    def own_splits(self):
        return tuple(self.lists)

    def read(self, own_split):
        return iter(self.lists[own_split])

    def fingerprint(self):
        return self.dealing()

    def describe(self):
        return "lists"


def texts(count, label="a"):
    return [LabeledText(f"{label} {number}", (label,)) for number in range(count)]


def dealt(source):
    return {split: list(source.records(split)) for split in source.splits}


labels = st.sampled_from(["a", "b", "c", "rare", "rarer"])
records = st.lists(st.builds(lambda text, label: LabeledText(text, (label,)), st.text(max_size=3), labels), max_size=80)


@settings(deadline=None)
@given(records, st.floats(0, 0.5), st.floats(0, 0.4), st.booleans(), st.integers(-5, 5))
def test_every_record_is_in_one_split_and_copies_are_together(records, val, test, stratify, seed):
    source = Listed(records, val_fraction=val, test_fraction=test, stratify=stratify, seed=seed)
    found = dealt(source)
    assert Counter(record for split in found.values() for record in split) == Counter(records)
    sets = [set(split) for split in found.values()]
    assert sum(map(len, sets)) == len(set(records))
    assert found == dealt(source)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.floats(0, 0.4), st.floats(0, 0.4))
def test_strata_have_their_shares(sizes, val, test):
    every = [record for number, size in enumerate(sizes) for record in texts(size, f"label {number}")]
    found = dealt(Listed(every, val_fraction=val, test_fraction=test))
    for number, size in enumerate(sizes):
        names = {split: sum(record.labels == (f"label {number}",) for record in found[split]) for split in found}
        assert not size or names["train"]
        if names["train"] > 1:  # no record had to stay in train
            # it may make up for labels that could not give their share
            owed = (val + test) * sum(each for each in sizes if each * (1 - val - test) <= 2)
            assert -1 <= names.get("val", 0) - val * size <= 1 + owed
            assert -1 <= names.get("test", 0) - test * size <= 1 + owed
    if min(sizes) > 10:
        assert abs(len(found.get("val", ())) - val * len(every)) <= 0.5 + 1e-6


def test_rare_labels_add_up_to_the_share_of_the_whole():
    every = [record for number in range(100) for record in texts(3, f"label {number:02}")]
    found = dealt(Listed(every, val_fraction=0.1))
    assert len(found["val"]) == 30 and len(found["train"]) == 270


def test_frequent_labels_give_what_labels_of_one_record_cannot():
    every = [record for number in range(500) for record in texts(1, f"label {number:03}")]
    found = dealt(Listed([*texts(500), *every], val_fraction=0.1))
    assert len(found["val"]) == 100 and set(every) <= set(found["train"])


def test_without_stratify_new_records_do_not_move_old_ones():
    settings = {"stratify": False, "val_fraction": 0.2, "test_fraction": 0.2}
    before, after = (dealt(Listed(texts(count), **settings)) for count in (500, 1000))
    for split in before:
        assert set(before[split]) <= set(after[split])
        assert abs(len(after[split]) - 1000 * {"train": 0.6, "val": 0.2, "test": 0.2}[split]) < 60
    assert dealt(Listed(texts(500), seed=1, **settings)) != before


def test_with_stratify_few_records_move():
    before, after = (dealt(Listed(texts(count), val_fraction=0.2)) for count in (900, 1000))
    assert len(set(before["train"]) & set(after["val"])) + len(set(before["val"]) & set(after["train"])) < 30


def test_pairs_with_one_source_stay_together():
    pairs = [TextPair(f"source {number // 3}", f"target {number}") for number in range(300)]
    found = dealt(Listed(pairs, val_fraction=0.3, stratify=False))
    assert {pair.source for pair in found["val"]}.isdisjoint(pair.source for pair in found["train"])


def test_only_what_is_missing_is_dealt():
    own = {"train": texts(100), "val": texts(7, "b")}
    source = Listed(own, test_fraction=0.1)
    found = dealt(source)
    assert found["val"] == own["val"] and len(found["test"]) == 10 and len(found["train"]) == 90
    assert source.fingerprint()["fractions"] == {"test": 0.1}
    assert Listed(own).fingerprint() == {"flaws": "error", "unseen_labels": "error"}
    assert dealt(Listed({"test": own["val"]})) == {"test": own["val"]}
    with pytest.raises(InputError, match="the data has no test split; it has: train, val"):
        Listed(own).records("test")


def test_a_flaw_stops_or_is_counted():
    bad = Flaw("a.csv, line 3", "the column is empty")
    own = {"train": [*texts(20), bad, *texts(5, "b"), bad], "val": [bad, *texts(2)]}
    with pytest.raises(InputError, match=r"^a\.csv, line 3: the column is empty$") as caught:
        list(Listed(own).records("train"))
    assert caught.value.hint == "data.flaws=skip leaves such records out"
    source = Listed(own, flaws="skip")
    assert source.left_out == {"flawed": 3}  # before anything else was read
    assert [len(records) for records in dealt(source).values()] == [25, 2]
    assert source.left_out == {"flawed": 3}
    assert dealt(source) and source.left_out == {"flawed": 3}
    assert Listed({"train": texts(3)}).left_out == {}


def test_nothing_but_flaws_is_an_error_that_says_the_first():
    own = [Flaw("a.csv, line 2", 'there is no column "text"', "data.reader.text=COLUMN chooses one"), Flaw("x", "y")]
    with pytest.raises(
        InputError, match=r"none of 2 records can be read; a\.csv, line 2: there is no column"
    ) as caught:
        dealt(Listed(own, flaws="skip"))
    assert caught.value.hint == "data.reader.text=COLUMN chooses one"


def test_labels_that_train_never_has_can_be_left_out():
    own = {"train": texts(5), "val": [*texts(2), *texts(3, "new")], "test": texts(4, "new")}
    source = Listed(own, unseen_labels="skip")
    assert [len(records) for records in dealt(source).values()] == [5, 2, 0]
    assert source.left_out == {"with labels that train never has": 7}
    assert len(dealt(Listed(own))["val"]) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flaws": "drop"}, r"data\.flaws \(drop\) must be one of error, skip"),
        ({"unseen_labels": "keep"}, r"data\.unseen_labels \(keep\) must be one of error, skip"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "together less than 1"),
    ],
)
def test_options_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        Listed([], **changes)


def test_a_few_of_train_hold_the_same_share_of_every_label():
    all_of_them = [*texts(60), *texts(30, "b"), *texts(10, "c")]
    source = Listed({"train": all_of_them, "val": texts(5)}, train_examples=20)
    kept = dealt(source)
    assert Counter(record.labels[0] for record in kept["train"]) == {"a": 12, "b": 6, "c": 2}
    assert kept["train"] == [record for record in all_of_them if record in kept["train"]]  # in their order
    assert len(kept["val"]) == 5
    assert source.fingerprint() != Listed({"train": all_of_them, "val": texts(5)}).fingerprint()


def test_a_few_of_train_are_the_same_ones_again_others_with_another_seed_and_part_of_a_few_more():
    def few(count, **changes):
        return set(Listed([*texts(80), *texts(20, "b")], train_examples=count, **changes).records("train"))

    assert few(10) == few(10) and few(10) != few(10, seed=1)
    assert few(10) < few(20)
    source = Listed([*texts(80), *texts(20, "b")], train_examples=10, val_fraction=0.2)
    assert not set(source.records("train")) & set(source.records("val"))


@settings(deadline=None)
@given(records, st.integers(1, 90))
def test_a_few_of_train_are_exactly_so_many_copies_or_not(listed, count):
    source = Listed({"train": listed}, val_fraction=0.0, train_examples=count)  # all of them are train
    if count > len(listed):
        with pytest.raises(InputError, match="is more than there are in train"):
            list(source.records("train"))
    else:
        assert len(list(source.records("train"))) == count


def test_not_even_one_of_train_is_refused():
    with pytest.raises(InputError, match=r"data\.train_examples \(0\) must be at least 1"):
        Listed([], train_examples=0)


def test_pairs_turned_round_are_split_alike_by_their_target():
    pairs = [TextPair(f"source {number // 2}", f"target {number}") for number in range(60)]
    turned = [TextPair(pair.target, pair.source) for pair in pairs]
    shares = {"val_fraction": 0.2, "test_fraction": 0.2}
    there, back = dealt(Listed(pairs, **shares)), dealt(Listed(turned, split_by="target", **shares))
    assert {split: [TextPair(p.target, p.source) for p in found] for split, found in back.items()} == there
    sources = {split: {pair.source for pair in found} for split, found in there.items()}
    assert len(set.union(*sources.values())) == sum(map(len, sources.values())) == 30  # no source in two splits
    assert dealt(Listed(turned, **shares)) != back
    assert Listed(pairs, **shares).dealing() != Listed(pairs, split_by="target", **shares).dealing()


def test_what_records_are_split_by_is_checked():
    with pytest.raises(InputError, match=r"data\.split_by \(label\) must be one of source, target"):
        Listed([], split_by="label")
