"""Labelled texts as documents: what running text they become, in which splits."""

from __future__ import annotations

import pytest

from llmcli.data.dealing import DealtRecords
from llmcli.data.prepare import prepare
from llmcli.data.records import LabeledPair, LabeledText, TextPair
from llmcli.data.texts import TextsOf
from llmcli.errors import InputError
from llmcli.tokenizers.byte import train as train_bytes


class Kept(DealtRecords):
    """Records from lists."""

    def __init__(self, record, **splits):
        settings = {"val_fraction": 0.0, "test_fraction": 0.0, "stratify": False, "seed": 0}
        super().__init__(**settings, flaws="error", unseen_labels="error")
        self.record, self.lists = record, splits

    @property
    def own_splits(self):
        return tuple(self.lists)

    def read(self, own_split):
        return iter(self.lists[own_split])

    def fingerprint(self):
        return {"lists": {split: [str(each) for each in listed] for split, listed in self.lists.items()}}

    def describe(self):
        return "lists"


def test_each_text_is_a_document_of_its_split(tmp_path):
    source = Kept(
        LabeledPair, train=[LabeledPair("a man sleeps", "he is awake", ("no",))], val=[LabeledPair("x", "y", ("yes",))]
    )
    prepared = prepare(TextsOf(source), tokenizer=train_bytes, tokenizer_key={}, cache_dir=tmp_path, workers=1)
    assert prepared.record == "Text" and prepared.splits == ("train", "val") and prepared.names == ()
    shards, tokenizer = prepared.split("train"), prepared.tokenizer
    ids = [int(each) for each in shards.read(0, len(shards))]
    first = [*tokenizer.encode("a man sleeps"), tokenizer.eos_id]
    assert ids == [*first, *tokenizer.encode("he is awake"), tokenizer.eos_id]
    assert prepared.count("documents", "val") == 2


def test_what_they_follow_from_is_what_the_examples_do_and_that_they_are_texts():
    one, other = (Kept(LabeledText, train=[LabeledText(text, ("a",))]) for text in ("x", "y"))
    assert TextsOf(one).fingerprint() not in (TextsOf(other).fingerprint(), one.fingerprint())


def test_texts_that_do_not_stand_for_themselves_are_refused():
    with pytest.raises(InputError, match=r"of LabeledText and LabeledPair records; this is TextPair"):
        TextsOf(Kept(TextPair, train=[]))
