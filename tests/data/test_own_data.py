"""data=labeled_text, labeled_pairs and text_pairs: the user's own tables, from the command line to what is stored."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from llmcli import config
from llmcli.data.prepare import Prepared
from llmcli.data.reader import Flaw
from llmcli.data.records import LabeledPair, LabeledText, Record, TextPair
from llmcli.errors import InputError

DATA = ("labeled_text", "labeled_pairs", "text_pairs")


@cache
def settings_of(data):
    return OmegaConf.to_container(config.compose("train", [f"data={data}"]).data)


def source(data, path, **reader):
    plain = copy.deepcopy(settings_of(data)) | {"path": str(path)}
    plain["reader"] |= reader
    return config.build(OmegaConf.create(plain))


def read(data, path, **reader):
    return list(source(data, path, **reader).reader.read([Path(path)]))


def test_reviews_are_prepared(llm, tmp_path):
    rows = "".join(f'{number},"review {number},\nof a day",{number % 5}\n' for number in range(100))
    Path("reviews.csv").write_text(f"id,review,stars\n{rows}", encoding="utf-8")
    told = ["data=labeled_text", "data.path=reviews.csv", "data.reader.label=stars", "tokenizer=byte", "--json"]
    done = llm("prepare", *told, "data.reader.text=review")
    assert done.code == 0
    report = json.loads(done.out)
    splits = report["splits"]
    assert {split: stats["documents"] for split, stats in splits.items()} == {"train": 90, "val": 10}
    assert splits["train"]["names"] == {str(stars): 18 for stars in range(5)}
    manifest = json.loads((Path(report["path"]) / "manifest.json").read_text(encoding="utf-8"))
    prepared = Prepared(Path(report["path"]), manifest, None, fresh=False)  # the tokenizer is not needed here
    assert next(iter(prepared.examples("val"))).text.endswith(",\nof a day")
    wrong = llm("prepare", *told, "data.reader.text=reveiw")
    there_is = "the columns are: id, review, stars. Did you mean review?"
    assert wrong.code == 2 and wrong.err.splitlines() == [
        f'error: reviews.csv, line 2: there is no column "reveiw"; {there_is}',
        "       data.reader.text=COLUMN chooses one; where the first line of a table is data, data.reader.header=false",
    ]


def test_a_row_that_cannot_be_read_stops_or_is_left_out(llm):
    Path("a.tsv").write_text("text\tlabel\n" + "fine\tyes\n" * 30 + "ragged\n\tno\n", encoding="utf-8")
    told = ["data=labeled_text", "data.path=a.tsv", "tokenizer=byte"]
    stopped = llm("prepare", *told)
    assert stopped.code == 2
    assert stopped.err == (
        "error: a.tsv, line 32: 1 value, but 2 columns\n       data.flaws=skip leaves such records out\n"
    )
    done = llm("prepare", *told, "data.flaws=skip", "data.val_fraction=0")
    assert done.code == 0 and re.search("^left out +2 flawed$", done.err, flags=re.MULTILINE)
    again = llm("prepare", *told, "data.flaws=skip", "data.val_fraction=0", "--json")
    assert json.loads(again.out)["left_out"] == {"flawed": 2}


def test_a_label_that_train_never_has(llm):
    Path("train.csv").write_text("text,label\none,a\ntwo,b\n", encoding="utf-8")
    Path("test.csv").write_text("text,label\nthree,a\nfour,c\n", encoding="utf-8")
    told = [
        "data=labeled_text",
        "data.path={train: train.csv, test: test.csv}",
        "data.val_fraction=0",
        "tokenizer=byte",
    ]
    stopped = llm("prepare", *told)
    assert stopped.code == 2 and "the test split has 'c' (1 times), which the train split never has" in stopped.err
    done = llm("prepare", *told, "data.unseen_labels=skip")
    assert done.code == 0 and "1 with labels that train never has" in done.err


def test_what_emptied_a_split_is_said(llm):
    Path("train.csv").write_text("text,label\na long text to keep,a\nanother long text,a\n", encoding="utf-8")
    Path("val.csv").write_text("text,label\nshort,a\n", encoding="utf-8")
    told = ["prepare", "data=labeled_text", "data.reader.text=text"]
    cleaned = llm(
        *told,
        "data.path={train: train.csv, val: val.csv}",
        "tokenizer=byte",
        "clean=[length]",
        "clean.length.minimum=9",
    )
    assert cleaned.code == 2 and "of the val split: of 1 examples cleaning dropped 1 and duplicates 0" in cleaned.err
    same = llm(*told, "data.path={train: train.csv, val: train.csv}", "tokenizer=word", "duplicates=drop_leaks")
    assert same.code == 2, same.err
    assert "nothing is left of the train split: of 2 examples cleaning dropped 0 and duplicates 2" in same.err


def test_the_way_out_is_not_the_option_that_is_given(llm):
    Path("train.csv").write_text("text,label\none,a\ntwo,b\n", encoding="utf-8")
    Path("val.csv").write_text("text,label\ntwo,b\n", encoding="utf-8")
    found = llm(
        "prepare", "data=labeled_text", "data.path={train: train.csv, val: val.csv}", "tokenizer=byte",
        "duplicates=drop_leaks", "data.unseen_labels=skip",
    )  # fmt: skip
    assert found.code == 2 and "another clean= or duplicates=" in found.err


# -- what the readers make of rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        ({"text": "a", "label": "x"}, {}, LabeledText("a", ("x",))),
        ({"text": "a", "label": 1}, {}, LabeledText("a", ("1",))),
        ({"text": "a", "label": 1}, {"names": ["no", "yes"]}, LabeledText("a", ("yes",))),
        ({"text": "a", "label": "1"}, {"names": {1: "one", "x": "other"}}, LabeledText("a", ("one",))),
        ({"text": "a", "score": "0.5"}, {"label": None, "value": "score"}, LabeledText("a", (), 0.5)),
        ({"text": "a", "label": "x; y;x"}, {"label_separator": ";"}, LabeledText("a", ("x", "y"))),
        ({"text": "a", "label": ["x", "y"]}, {"label_separator": ";"}, LabeledText("a", ("x", "y"))),
        ({"text": "a", "label": ""}, {"label_separator": ";"}, LabeledText("a")),
        ({"text": "a", "label": None}, {"label_separator": ";"}, LabeledText("a")),
        ({"text": "a", "label": ""}, {}, 'the column "label" is empty'),
        ({"text": "", "label": "x"}, {}, 'the column "text" is empty'),
        ({"text": "a", "label": ["x"]}, {}, 'the column "label" holds a list'),
        (
            {"text": "a", "label": 2},
            {"names": ["no", "yes"]},
            "there is no name for the label '2'; data.reader.names has: 0, 1",
        ),
        ({"text": "a", "score": "much"}, {"label": None, "value": "score"}, 'the column "score" must be a number'),
    ],
)
def test_labeled_texts(tmp_path, row, options, expected):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    [found] = read("labeled_text", path, **options)
    assert found == expected if isinstance(expected, Record) else found.what.startswith(expected)


def test_labeled_pairs(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("1\ta\tb\t2.5\n2\t\tb\t1\n", encoding="utf-8")
    options = {"header": False, "first": 2, "second": 3, "label": None, "value": 4}
    pair, flaw = read("labeled_pairs", path, **options)
    assert pair == LabeledPair("a", "b", (), 2.5)
    assert flaw == Flaw(f"{path}, line 2", 'the column "2" is empty')


def test_pairs_in_columns(tmp_path):
    path = tmp_path / "cmn.txt"
    path.write_text("Hi.\t你好。\nNo tab\nRun.\t跑！\n", encoding="utf-8")
    found = read("text_pairs", path, header=False, source=1, target=2)
    assert found[::2] == [TextPair("Hi.", "你好。"), TextPair("Run.", "跑！")]
    assert found[1] == Flaw(f"{path}, line 2", "1 value, but 2 columns")


def parallel(tmp_path, english, german, **changes):
    (tmp_path / "train.en").write_text(english, encoding="utf-8")
    (tmp_path / "train.de.txt").write_text(german, encoding="utf-8")
    return source("text_pairs", tmp_path, source="en", target="de", **changes)


def test_parallel_files_side_by_side(tmp_path):
    found = parallel(tmp_path, "one\n\nthree\n", "eins\nzwei\ndrei")
    files = found.files("train")
    assert list(found.reader.read(files)) == [
        TextPair("one", "eins"),
        Flaw(f"{tmp_path}/train.en and {tmp_path}/train.de.txt, line 2", "the source is empty"),
        TextPair("three", "drei"),
    ]
    with pytest.raises(InputError, match="of 3 parallel files 1 are called en and 1 de"):
        list(found.reader.read([*files, tmp_path / "other.txt"]))


@pytest.mark.parametrize(("english", "german"), [("a\nb\nc\n", "a\n"), ("a\nb\n", "a\nb\nc\nd\n"), ("", "a\n")])
def test_parallel_files_of_unequal_length(tmp_path, english, german):
    found = parallel(tmp_path, english, german)
    counts = (
        rf"train\.en has {english.count(chr(10))} lines and .*train\.de\.txt has {german.count(chr(10))}: they are not"
    )
    with pytest.raises(InputError, match=counts):
        list(found.reader.read(found.files("train")))


# -- anything at all -------------------------------------------------------------------------------------------------

SUFFIXES = (
    ".csv",
    ".tsv",
    ".txt",
    ".jsonl",
    ".json",
    ".parquet",
    ".arrow",
    ".csv.gz",
    ".zip",
    ".tar",
    ".jsonl.zst",
    ".xz",
)
jsons = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "label", "source", "first"]), inner)
    ),
    max_leaves=8,
)
tables = st.lists(
    st.lists(st.sampled_from(["text", "label", "a", '"', '"b', "", "\0", "1", "é", "\ud800"])), max_size=6
)
anything = st.one_of(
    st.binary(max_size=100),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")),
    st.lists(jsons, max_size=3).map(lambda listed: "\n".join(map(json.dumps, listed)).encode()),
    jsons.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda rows, tab: "\n".join(map(tab.join, rows)).encode("utf-8", "replace"),
        tables,
        st.sampled_from([",", "\t", ";"]),
    ),
)


@pytest.fixture(scope="module")
def readers():
    made = []
    for data in DATA:
        reader = source(data, __file__).reader
        ids = {} if data == "text_pairs" else {"value": "1", "label_separator": " ", "names": ["a", "b"]}
        for encoding in ("utf-8", "auto", "utf-16"):
            made += [replace(reader, encoding=encoding), replace(reader, encoding=encoding, header=False, **ids)]
    return made


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_make_records_flaws_or_an_error(tmp_path, readers, data):
    reader = data.draw(st.sampled_from(readers))
    path = tmp_path / f"a{data.draw(st.sampled_from(SUFFIXES))}"
    path.write_bytes(data.draw(anything))
    try:
        found = list(reader.read([path]))
    except InputError as err:
        assert str(path) in str(err)
    else:
        assert all(isinstance(each, reader.record | Flaw) for each in found)
        for each in found:
            for text in each.texts() if isinstance(each, Record) else ():
                assert text.strip() and text.encode()
