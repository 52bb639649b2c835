from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.data.example_batches import Sizes, collate, shortened
from llmcli.data.example_module import ExampleData
from llmcli.data.prepare import prepare
from llmcli.data.records import LabeledPair, LabeledText, TaggedTokens, to_plain
from llmcli.data.source import Source
from llmcli.errors import InputError
from llmcli.losses import IGNORED
from llmcli.text.augment.base import WordStep
from llmcli.text.augment.edits import RandomDeletion
from llmcli.text.augment.typos import Typos
from llmcli.tokenizers.byte import ByteTokenizer

CLS, SEP = 5, 6
NAMES = ("neg", "pos")


class Given(Source):
    """Records handed over by a test."""

    def __init__(self, **splits):
        self.given, self.record = splits, type(splits["train"][0])

    @property
    def splits(self):
        return tuple(self.given)

    def fingerprint(self):
        return {split: [to_plain(each) for each in records] for split, records in self.given.items()}

    def records(self, split):
        return iter(self.given[split])

    def describe(self):
        return "a test"


class Classes:
    """<cls> text <sep>, and the number of the label."""

    pad: ClassVar = {"ids": 0}
    extra = 2

    def __call__(self, record, ids):
        return {"ids": np.array([CLS, *ids[0], SEP]), "labels": NAMES.index(record.labels[0])}


class Tags:
    """The bytes of every token; its first carries the tag, other ids none."""

    pad: ClassVar = {"ids": 0, "labels": IGNORED}
    extra = 0

    def __call__(self, record, ids):
        labels = [[len(tag), *[IGNORED] * (len(row) - 1)] for row, tag in zip(ids, record.tags, strict=True)]
        return {"ids": np.concatenate(ids), "labels": np.concatenate(labels), "n_tokens": len(ids)}


RNG = np.random.default_rng(7)
TEXTS = [
    LabeledText("".join(RNG.choice(list("abcdef"), n)), (NAMES[n % 5 == 0],)) for n in RNG.integers(1, 50, 90).tolist()
]


def module(tmp_path, records=None, val=None, encode=None, trainer=None, **changes):
    records = TEXTS if records is None else records
    given = Given(train=records, val=records[:30] if val is None else val)
    prepared = prepare(given, tokenizer=ByteTokenizer(), tokenizer_key={}, cache_dir=tmp_path / "cache")
    settings = {
        "size": 8,
        "max_tokens": None,
        "seq_len": 64,
        "too_long": "truncate",
        "pool": 4,
        "balance": "none",
        "label_weights": None,
        "augment_share": 1.0,
        "augment_words": "rule",
        "eval_size": None,
        "num_workers": 0,
    }
    data = ExampleData(
        prepared=prepared, seed=1, contiguous=False, encode=encode or Classes(), **{**settings, **changes}
    )
    if trainer is not None:
        data.trainer = trainer
    return data


class Rank:
    world_size = 2

    def __init__(self, rank, device="cpu"):
        self.global_rank = rank
        self.strategy = SimpleNamespace(root_device=torch.device(device))


def texts(loader):
    """(text, label) of every example of an epoch, in the order of the batches."""
    found = []
    for batch in loader:
        for row, (ids, label) in enumerate(zip(batch["ids"], batch["labels"].tolist(), strict=True)):
            real = ids[batch["mask"][row]] if "mask" in batch else ids
            assert real[0] == CLS and real[-1] == SEP
            found.append((bytes((real[1:-1] - 16).tolist()).decode(), NAMES[label]))
    return found


def pairs(records):
    return sorted((record.text, record.labels[0]) for record in records)


def equal(one, two):
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a)
        for a, b in zip(one, two, strict=True)
    )


def take(loader, count):
    """The next `count` batches as a training loop sees them: epoch after epoch."""
    found = []
    while len(found) < count:
        found += itertools.islice(loader, count - len(found))
    return found


def test_an_epoch_holds_every_example_with_its_label(tmp_path):
    data = module(tmp_path)
    assert sorted(texts(data.train_dataloader())) == pairs(TEXTS)
    assert sorted(texts(data.val_dataloader())) == pairs(TEXTS[:30])
    assert data.batches_per_epoch(1) == len(data.train_dataloader()) == 12
    batch = next(iter(data.train_dataloader()))
    assert batch["ids"].dtype == torch.int64 and batch["ids"].ndim == 2
    assert batch["n_tokens"] == len(batch["labels"]) == 8 and batch["index"] == 0
    mean = sum(len(each.text) + 2 for each in TEXTS) / 12
    assert data.tokens_per_batch == round(mean)


def test_padding_is_masked_and_there_is_no_mask_without_padding():
    rows = [{"ids": np.arange(3), "score": 0.5}, {"ids": np.arange(2), "score": 2.0}]
    batch = collate(rows, {"ids": 9})
    assert batch["ids"].tolist() == [[0, 1, 2], [0, 1, 9]]
    assert batch["mask"].tolist() == [[True] * 3, [True, True, False]]
    assert (batch["n_tokens"], batch["n_ids"]) == (2, 5)
    assert batch["score"].dtype == torch.float32 and batch["score"].tolist() == [0.5, 2.0]
    assert "mask" not in collate([rows[0]] * 2, {"ids": 9})


def test_fields_of_a_fixed_size_are_stacked():
    rows = [{"ids": np.arange(2), "labels": np.array([0.0, 1.0])}] * 3
    assert collate(rows, {"ids": 0})["labels"].shape == (3, 2)


def test_tags_are_padded_with_what_the_encoder_says(tmp_path):
    records = [TaggedTokens(("Rome", "is", "old")[:n], ("B-LOC", "O", "O")[:n]) for n in (1, 2, 3)]
    data = module(tmp_path, records, encode=Tags())
    [batch] = data.train_dataloader()
    assert batch["n_tokens"] == 6 == int((batch["labels"] != IGNORED).sum())
    assert bool((batch["labels"][~batch["mask"]] == IGNORED).all())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("changes", [{}, {"max_tokens": 200}, {"balance": "over"}])
def test_a_loader_that_is_stopped_goes_on_where_it_was(tmp_path, num_workers, changes):
    expected = take(module(tmp_path, **changes).train_dataloader(), 30)
    stopped = module(tmp_path, num_workers=num_workers, **changes).train_dataloader()
    assert equal(take(stopped, 17), expected[:17])
    resumed = module(tmp_path, num_workers=num_workers, **changes).train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    assert equal(take(resumed, 13), expected[17:])


STEPS = {"random_deletion": RandomDeletion(rate=0.3), "typos": Typos(rate=0.5, kinds=["key"])}
SENTENCES = [LabeledText(f"one two three four five six {each.text}", each.labels) for each in TEXTS]


def test_training_examples_are_changed_and_no_others(tmp_path):
    data = module(tmp_path, SENTENCES, seq_len=100, augment=STEPS)
    loader = data.train_dataloader()
    first, second = texts(loader), texts(loader)
    given = dict(pairs(SENTENCES))
    assert len(first) == len(second) == 90 and sorted(first) != sorted(second)
    assert sum(text in given for text, _ in first) < 10
    assert sorted(label for _, label in first) == sorted(given.values())
    assert sorted(texts(data.val_dataloader())) == pairs(SENTENCES[:30])
    assert sorted(texts(data.eval_loader("train"))) == pairs(SENTENCES)
    assert sorted(texts(module(tmp_path, SENTENCES, seq_len=100, augment={}).train_dataloader())) == pairs(SENTENCES)
    some = texts(module(tmp_path, SENTENCES, seq_len=100, augment=STEPS, augment_share=0.5).train_dataloader())
    assert 25 < sum(text in given for text, _ in some) < 70


def test_an_example_is_changed_the_same_way_by_every_rank_worker_and_batch_size(tmp_path):
    def changed(**changes):
        data = [module(tmp_path, SENTENCES, augment=STEPS, seq_len=100, **changes)]
        if "trainer" in changes:
            data = [module(tmp_path, SENTENCES, augment=STEPS, seq_len=100, trainer=Rank(rank)) for rank in range(2)]
        return sorted(pair for each in data for pair in texts(each.train_dataloader()))

    usual = changed()
    assert changed(num_workers=2) == changed(size=5, pool=1) == changed(trainer=Rank(0)) == usual


class Twice(WordStep):
    def changed(self, word, rng):
        return f"{word} {word}"


def test_what_augmentation_makes_longer_keeps_to_max_tokens(tmp_path):
    found = {}
    for steps in ({}, {"twice": Twice(rate=1.0)}):
        data = module(tmp_path, SENTENCES, augment=steps, size=8, seq_len=100, max_tokens=150)
        found[len(steps)] = [batch["ids"].shape for batch in data.train_dataloader()]
    assert [rows for rows, _ in found[0]] == [rows for rows, _ in found[1]]
    assert all(rows * longest <= 150 for shapes in found.values() for rows, longest in shapes)
    assert sum(longest for _, longest in found[1]) > sum(longest for _, longest in found[0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_augmented_loader_goes_on_where_it_was(tmp_path, num_workers):
    expected = take(module(tmp_path, SENTENCES, augment=STEPS).train_dataloader(), 20)
    resumed = module(tmp_path, SENTENCES, augment=STEPS, num_workers=num_workers).train_dataloader()
    resumed.load_state_dict({"epoch": 0, "position": 7})
    assert equal(take(resumed, 13), expected[7:])


def test_examples_that_are_repeated_for_balance_are_changed_each_time(tmp_path):
    data = module(tmp_path, SENTENCES, augment=STEPS, balance="over", seq_len=100)
    shown = [text for text, label in texts(data.train_dataloader()) if label == "pos"]
    given = [each for each in SENTENCES if each.labels == ("pos",)]
    assert len(shown) > 2 * len(given) and len(set(shown)) > 0.95 * len(shown)


def test_ranks_share_training_and_validation(tmp_path):
    shares = [module(tmp_path, trainer=Rank(rank), accumulate=3) for rank in range(2)]
    assert [len(each.train_dataloader()) for each in shares] == [6, 6] == [shares[0].batches_per_epoch(2)] * 2
    shown = [text for each in shares for text, _ in texts(each.train_dataloader())]
    assert len(shown) == len(TEXTS)
    found = [pair for each in shares for pair in texts(each.val_dataloader())]
    assert sorted(found) == pairs(TEXTS[:30])
    assert sorted(texts(shares[1].eval_loader("val", alone=True))) == pairs(TEXTS[:30])


def test_fewer_examples_than_processes_are_refused_on_each(tmp_path):
    for rank in range(2):
        data = module(tmp_path, val=TEXTS[:1], trainer=Rank(rank))
        with pytest.raises(InputError, match="the val split has 1 examples, fewer than the 2 processes") as caught:
            data.val_dataloader()
        assert "trainer.devices=1" in caught.value.hint
        assert len(data.eval_loader("val", alone=True)) == 1


def test_each_option_changes_the_batches(tmp_path):
    usual = list(module(tmp_path).train_dataloader())
    for changes in (
        {"size": 4},
        {"max_tokens": 100},
        {"seq_len": 20},
        {"pool": 1},
        {"balance": "over"},
        {"balance": "under"},
        {"label_weights": {"pos": 3.0}},
        {"seq_len": 40, "too_long": "drop"},
    ):
        assert not equal(list(module(tmp_path, **changes).train_dataloader()), usual), changes
    assert len(next(iter(module(tmp_path).val_dataloader()))["ids"]) > 8
    assert len(next(iter(module(tmp_path, eval_size=3).val_dataloader()))["ids"]) <= 3
    assert all(len(each["ids"]) <= 2 for each in module(tmp_path).eval_loader("val", size=2))


def test_labels_are_balanced(tmp_path):
    def shares(**changes):
        labels = [label for _, label in texts(module(tmp_path, **changes).train_dataloader())]
        return labels.count("neg"), labels.count("pos")

    neg, pos = shares()
    assert neg > 2 * pos
    assert shares(balance="over") == (neg, neg) and shares(balance="under") == (pos, pos)
    weighted = shares(label_weights={"pos": 3.0})
    assert sum(weighted) == len(TEXTS) and abs(weighted[1] - len(TEXTS) * 3 * pos / (neg + 3 * pos)) < 1


def test_a_label_that_looks_like_a_number_is_weighed(tmp_path):
    class Stars(Classes):
        def __call__(self, record, ids):
            return super().__call__(LabeledText(record.text, (NAMES[record.labels == ("5",)],)), ids)

    records = [LabeledText(each.text, ("5" if each.labels == ("pos",) else "1",)) for each in TEXTS]
    for weights, shown in ((None, {"neg", "pos"}), ({1: 0}, {"pos"})):
        data = module(tmp_path, records, val=records[:1], encode=Stars(), label_weights=weights)
        assert {label for _, label in texts(data.train_dataloader())} == shown


def test_long_examples_are_cut_dropped_or_refused(tmp_path):
    long = [each for each in TEXTS if len(each.text) > 18]
    data = module(tmp_path, seq_len=20)
    few = sum(each in long for each in TEXTS[:30])
    found = f"longer than batch.seq_len (20): {len(long)} of 90 in train (%s), {few} of 30 in val (cut)"
    assert data.remark == found % "cut" and module(tmp_path).remark == ""
    cut = [LabeledText(each.text[:18], each.labels) for each in TEXTS]
    assert sorted(texts(data.train_dataloader())) == pairs(cut)
    dropping = module(tmp_path, seq_len=20, too_long="drop")
    assert sorted(texts(dropping.train_dataloader())) == pairs([each for each in TEXTS if each not in long])
    assert dropping.remark == found % "left out"
    assert sorted(texts(dropping.val_dataloader())) == pairs(cut[:30]), "a figure is of all examples"
    with pytest.raises(InputError, match=r"example \d+ of the train split has \d+ ids, more than batch.seq_len \(20\)"):
        module(tmp_path, seq_len=20, too_long="error").batches_per_epoch(1)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 60))
def test_the_longest_text_is_cut_first(lengths, limit):
    record = LabeledPair("", "")
    found = [len(each) for each in shortened(record, [np.zeros(n) for n in lengths], limit)[1]]
    while sum(lengths) > limit:
        lengths[len(lengths) - 1 - lengths[::-1].index(max(lengths))] -= 1
    assert sorted(found) == sorted(lengths) and sum(found) == sum(lengths)


def test_a_tagged_sentence_loses_the_ids_of_its_last_tokens_and_keeps_their_tags():
    record = TaggedTokens(("aa", "bbb", "c"), ("O", "B-X", "O"))
    ids = [np.zeros(2), np.zeros(3), np.zeros(1)]
    for limit, lengths in ((6, [2, 3, 1]), (5, [2, 3]), (1, [1])):
        kept, rows = shortened(record, ids, limit)
        assert kept == record and [len(each) for each in rows] == lengths


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, r"batch.size \(0\) must be at least 1"),
        ({"seq_len": 0}, r"batch.seq_len \(0\)"),
        ({"seq_len": 2}, r"batch.seq_len \(2\) must be above the 2 ids that the task adds"),
        ({"pool": 0}, r"batch.pool \(0\)"),
        ({"eval_size": 0}, r"batch.eval_size \(0\)"),
        ({"num_workers": -1}, r"batch.num_workers \(-1\)"),
        ({"max_tokens": 63}, r"batch.max_tokens \(63\) must hold one example of batch.seq_len \(64\)"),
        ({"too_long": "skip"}, r"batch.too_long \(skip\) must be one of truncate, drop, error"),
        ({"balance": "yes"}, r"batch.balance \(yes\) must be one of none, over, under"),
    ],
)
def test_impossible_settings(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        module(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"accumulate": 13},
            r"fills 12 batches of batch.size \(8\), .* trainer.accumulate \(13\)",
        ),
        ({"too_long": "drop", "seq_len": 3}, r"every example of the train split has more than batch.seq_len \(3\)"),
        ({"label_weights": {"bad": 2.0}}, "no training example has the label 'bad'"),
        ({"label_weights": {"pos": -1.0}}, "must be at least 0"),
        ({"label_weights": {"pos": 2.0}, "balance": "over"}, "give one"),
    ],
)
def test_an_epoch_that_cannot_be(tmp_path, changes, message):
    records = [LabeledText("abcd", each.labels) if changes.get("seq_len") else each for each in TEXTS]
    with pytest.raises(InputError, match=message):
        module(tmp_path, records, **changes).batches_per_epoch(1)


def test_the_way_out_of_too_few_batches_is_one(tmp_path):
    with pytest.raises(InputError) as caught:
        module(tmp_path, accumulate=13).batches_per_epoch(1)
    size = int(caught.value.hint.rpartition("=")[2])
    assert module(tmp_path, accumulate=13, size=size).batches_per_epoch(1) >= 13


def test_balance_wants_one_label_each(tmp_path):
    records = [LabeledText("a", ("neg",)), LabeledText("b", ("neg", "pos"))]
    with pytest.raises(InputError, match=r"batch.balance needs examples with one label each; example 1 has 2"):
        module(tmp_path, records, balance="over").batches_per_epoch(1)


def test_there_is_no_stride(tmp_path):
    with pytest.raises(InputError, match=r"stride \(8\) is for windows"):
        module(tmp_path).eval_loader("val", stride=8)


class Halves:
    """Every text as rows of at most `limit` bytes."""

    pad: ClassVar = {"ids": 0}
    extra = 0
    fate = "in parts"

    def rows(self, record, ids, limit):
        return [
            {"ids": ids[0][at : at + limit], "place": at, "n_tokens": int(at == 0), "said": record.text}
            for at in range(0, len(ids[0]), limit)
        ]

    def sizes(self, lengths, first, limit):
        if limit is None:
            return Sizes(np.ones_like(lengths), lengths, lengths)
        return Sizes(-(-lengths // limit), np.minimum(lengths, limit), lengths)


def test_examples_of_several_rows_stay_together_and_size_bounds_the_rows(tmp_path):
    data = module(tmp_path, encode=Halves(), seq_len=16, size=6, max_tokens=80)
    for loader in (data.train_dataloader(), data.eval_loader("train", size=6)):
        seen = {}
        for batch in loader:
            examples, rows = batch["numbers"].tolist(), batch["example"].tolist()
            assert sorted(set(rows)) == list(range(len(examples))) and rows == sorted(rows)
            assert len(rows) <= 6 and batch["ids"].numel() <= 80 and batch["ids"].size(1) <= 16
            assert batch["n_tokens"] == len(examples)
            for row, (example, place) in enumerate(zip(rows, batch["place"].tolist(), strict=True)):
                real = batch["ids"][row][batch["mask"][row]] if "mask" in batch else batch["ids"][row]
                text = bytes((real - 16).tolist()).decode()
                assert batch["said"][row][place : place + 16] == text
                seen[examples[example]] = seen.get(examples[example], "") + text
        assert sorted(seen.values()) == sorted(each.text for each in TEXTS)
    assert data.remark.endswith("in val (in parts)")
    assert data.tokens_per_batch == round(sum(len(each.text) for each in TEXTS) / len(data.train_dataloader()))


def test_an_example_with_more_rows_than_a_batch_is_a_batch_of_its_own(tmp_path):
    records = [LabeledText("x" * 50, ("neg",)), *TEXTS[:7]]
    data = module(tmp_path, records, encode=Halves(), seq_len=8, size=3)
    counts = [(len(batch["numbers"]), len(batch["ids"])) for batch in data.train_dataloader()]
    assert (1, 7) in counts and all(rows <= 3 or examples == 1 for examples, rows in counts)


class Thrice(Halves):
    """Every text three times, cut."""

    def rows(self, record, ids, limit):
        return [{"ids": ids[0][:limit], "n_tokens": 1}] * 3

    def sizes(self, lengths, first, limit):
        longest = lengths if limit is None else np.minimum(lengths, limit)
        return Sizes(np.full_like(lengths, 3), longest, 3 * longest)


def test_of_several_rows_too_what_augmentation_makes_longer_keeps_to_max_tokens(tmp_path):
    shapes = {}
    for steps in ({}, {"twice": Twice(rate=1.0)}):
        data = module(tmp_path, SENTENCES, encode=Thrice(), augment=steps, size=9, seq_len=50, max_tokens=300)
        shapes[len(steps)] = [batch["ids"].shape for batch in data.train_dataloader()]
    assert [rows for rows, _ in shapes[0]] == [rows for rows, _ in shapes[1]] and max(shapes[0])[0] == 9
    assert all(rows * longest <= 300 for each in shapes.values() for rows, longest in each)


def test_a_token_without_ids_takes_the_place_of_one(tmp_path):
    """It is read as unknown."""

    class Words(Tags):
        def __call__(self, record, ids):
            return {"ids": np.concatenate([each if len(each) else [1] for each in ids]), "n_tokens": len(ids)}

    records = [TaggedTokens(("a", "", "b") * 4, ("X",) * 12), TaggedTokens(("", "a"), ("X",) * 2)]
    record, ids = shortened(records[0], [np.array([20]), np.array([], np.int64), np.array([21])] * 4, 5)
    assert record is records[0] and [len(each) for each in ids] == [1, 0, 1, 1, 0]
    data = module(tmp_path, records, val=records, encode=Words(), seq_len=5)
    assert data.remark == "longer than batch.seq_len (5): 1 of 2 in train (cut), 1 of 2 in val (cut)"
    assert data.tokens_per_batch == 7
    [batch] = data.train_dataloader()
    assert batch["ids"].shape == (2, 5) and batch["n_ids"] == 7
