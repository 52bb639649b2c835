"""Data sets of Hugging Face, with a stand-in for the package datasets that has what is used of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest

from llmcli.data.reader import Flaw
from llmcli.data.readers.hub import HubRecords, HubText
from llmcli.data.readers.labeled_text import LabeledTextRows
from llmcli.data.records import LabeledText
from llmcli.errors import InputError, LLMError

FILES = {"format": "auto", "encoding": "utf-8", "delimiter": None, "quotes": None, "header": True, "root": None}
READER = LabeledTextRows(text="text", label="label", value=None, label_separator=None, names=None, **FILES)


@dataclass
class Classes:
    names: list[str]

    def int2str(self, value):
        return self.names[value]


class Table(list):
    """A split, like datasets.Dataset."""

    features: ClassVar = {"text": None, "label": Classes(["no", "yes"])}
    cache_files = ()
    _fingerprint = "made-up"

    def __iter__(self):
        return (dict(row) for row in super().__iter__())


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """The calls to the stand-in's load_dataset; what it returns stands in `.tables`."""
    held = SimpleNamespace(calls=[], tables={}, error=None)

    def load_dataset(path, name=None, *, trust_remote_code=None, **options):
        held.calls.append((path, name, trust_remote_code, options))
        if held.error:
            raise held.error
        return {split: Table(dict(row) for row in table) for split, table in held.tables.items()}

    monkeypatch.setitem(
        sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, load_from_disk=load_dataset)
    )
    monkeypatch.setenv("LLM_CACHE", str(tmp_path / "cache"))
    return held


def rows(count, split="train"):
    return [{"text": f"{split} {number}", "label": number % 2} for number in range(count)]


def records(path="owner/name", **changes):
    settings = {
        "subset": None,
        "revision": None,
        "streaming": False,
        "val_fraction": 0.1,
        "test_fraction": 0.0,
        "stratify": True,
        "seed": 0,
        "flaws": "error",
        "unseen_labels": "error",
    }
    return HubRecords(reader=READER, path=path, **{**settings, **changes})


def text(**changes):
    settings = {
        "subset": None,
        "revision": None,
        "streaming": False,
        "key": "text",
        "test_fraction": 0.0,
        "seed": 0,
        "eos": True,
    }
    return HubText(path="owner/name", **{"val_fraction": 0.2, **settings, **changes})


def test_rows_become_records_with_names_of_classes(datasets):
    datasets.tables = {"train": rows(100), "validation": rows(3), "unsupervised": rows(1)}
    source = records(subset="part", revision="abc")
    assert source.splits == ("train", "val")
    assert list(source.records("val")) == [LabeledText(f"train {n}", (("no", "yes")[n % 2],)) for n in range(3)]
    assert len(list(source.records("train"))) == 100
    # once, and never with the data set's own code
    assert datasets.calls == [("owner/name", "part", False, {"streaming": False, "revision": "abc"})]


def test_splits_that_it_lacks_are_dealt(datasets):
    datasets.tables = {"train": rows(100), "test": rows(7, "test")}
    source = records()
    assert [len(list(source.records(split))) for split in source.splits] == [90, 10, 7]
    datasets.tables = {"everything": rows(20)}
    assert [len(list(records().records(split))) for split in ("train", "val")] == [18, 2]
    datasets.tables = {"a": rows(2), "b": rows(2)}
    with pytest.raises(InputError, match="owner/name has no train split; it has: a, b"):
        _ = records().splits


def test_a_row_that_makes_no_record_is_a_flaw(datasets):
    datasets.tables = {"train": [*rows(2), {"text": "no label", "label": -1}]}
    *_, flaw = records().read("train")
    assert flaw == Flaw("owner/name, train row 3", 'the column "label" is empty')


def test_running_text(datasets):
    datasets.tables = {"train": [{"text": f"document {number}\r\n", "label": 0} for number in range(200)]}
    source = text()
    found = [[piece.text for piece in source.records(split)] for split in source.splits]
    assert sorted(found[0] + found[1]) == sorted(f"document {number}\n" for number in range(200))
    assert 20 < len(found[1]) < 60
    with pytest.raises(InputError, match='there is no column "body"; the columns are: text, label'):
        list(text(key="body").records("train"))


def test_what_it_depends_on_and_when_it_was_never_here(datasets, tmp_path):
    datasets.tables = {"train": rows(10)}
    source = records()
    assert source.missing() == ["https://huggingface.co/datasets/owner/name"]
    source.obtain(lambda *_: None)
    assert source.missing() == records().missing() == []
    assert records("owner/other").missing() and not records(str(tmp_path)).missing()
    before = records().fingerprint()
    assert before == records().fingerprint() != records(seed=1).fingerprint()
    file = tmp_path / "a.arrow"
    file.write_bytes(b"content")
    Table.cache_files = ({"filename": str(file)},)
    try:
        after = records().fingerprint()
        file.write_bytes(b"other")
        assert before != after != records().fingerprint()
    finally:
        Table.cache_files = ()
    assert records(streaming=True, revision="abc").fingerprint()["hub"]["train"] == ["owner/name", None, "abc", "train"]


def test_what_goes_wrong(datasets, monkeypatch):
    with pytest.raises(InputError, match=r"data\.path is needed: a name on the hub, or a folder"):
        records(None)
    with pytest.raises(InputError, match=r"data\.streaming needs data\.revision"):
        records(streaming=True)
    datasets.error = FileNotFoundError("Dataset 'owner/name' doesn't exist on the Hub\nmore lines")
    with pytest.raises(
        InputError, match=r"data\.path=owner/name cannot be read: Dataset 'owner/name' doesn't exist on the Hub$"
    ):
        records().obtain(lambda *_: None)
    datasets.error = ConnectionError("Couldn't reach the Hub")
    with pytest.raises(LLMError, match="owner/name could not be had: Couldn't reach the Hub"):
        records().obtain(lambda *_: None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="reading owner/name needs the package datasets") as caught:
        records().obtain(lambda *_: None)
    assert caught.value.hint == "pip install 'llmcli[hf]'"
