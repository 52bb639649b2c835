"""Tables and lists of objects: what is written is read back in every format, and what is wrong is named."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data import decode, open_file
from llmcli.data.formats import delimited, json_lines, json_list
from llmcli.data.formats.row import Row
from llmcli.data.reader import Flaw
from llmcli.data.records import LabeledText
from llmcli.data.rows import RowReader
from llmcli.errors import InputError

QUICK = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True, kw_only=True)
class Rows(RowReader):
    record: ClassVar[type[LabeledText]] = LabeledText

    def example(self, row):
        return LabeledText(row.text("text", "data.reader.text"))


def reader(**changes):
    options = {"format": "auto", "encoding": "utf-8", "delimiter": None, "quotes": None, "header": True, "root": None}
    return Rows(**{**options, **changes})


def rows(path, data=None, **changes):
    path = Path(path)
    if data is not None:
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(reader(**changes).rows([path]))


def values(found):
    found = list(found)
    assert all(isinstance(row, Row) for row in found), found
    return [dict(row.values) for row in found]


# What every format can hold: columns with names, and texts, in which a carriage return is a line end like any other.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0\ufeff"), max_size=12)
names = st.lists(
    words.map(str.strip).filter(lambda name: name and not name.isdigit()), min_size=2, max_size=4, unique=True
)
tables = names.flatmap(lambda keys: st.lists(st.fixed_dictionaries(dict.fromkeys(keys, words)), min_size=1, max_size=6))


@QUICK
@given(tables, st.sampled_from(delimited.DELIMITERS), st.integers(1, 40))
def test_csv_reads_back(tmp_path, table, delimiter, block):
    held = io.StringIO()
    writer = csv.DictWriter(held, [*table[0]], delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    text = held.getvalue()
    blocks = [text[start : start + block] for start in range(0, len(text), block)]
    found = delimited.read(blocks, "a.csv", delimiter=delimiter, quotes=True, header=True)
    assert values(found) == table


@QUICK
@given(tables, st.booleans(), st.integers(1, 40))
def test_json_reads_back(tmp_path, table, pretty, block):
    listed = json.dumps(table, indent=1 if pretty else None, ensure_ascii=pretty)
    for text, root in (
        (listed, None),
        (f'{{"version": 1.5, "more": {{"x": [1]}}, "data": {listed}, "end": null}}', None),
        (f'{{"data": {listed}, "other": [[1], 2]}}', "data"),
    ):
        blocks = [text[start : start + block] for start in range(0, len(text), block)]
        assert values(json_list.read(blocks, "a.json", root=root)) == table
    text = "\n".join(json.dumps(row) for row in table)
    blocks = [text[start : start + block] for start in range(0, len(text), block)]
    assert values(json_lines.read(blocks, "a.jsonl")) == table
    if len(table) > 1:  # JSON lines are often called .json
        assert values(json_list.read(blocks, "a.json", root=None)) == table


@QUICK
@given(tables)
def test_parquet_and_arrow_read_back(tmp_path, table):
    whole = pa.Table.from_pylist(table)
    pa.parquet.write_table(whole, tmp_path / "a.parquet")
    pa.feather.write_feather(whole, tmp_path / "a.feather")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), whole.schema) as stream:
        stream.write_table(whole, max_chunksize=2)
    for name in ("a.parquet", "a.feather", "a.arrow"):
        found = rows(tmp_path / name)
        assert values(found) == table
        assert found[-1].where == f"{tmp_path / name}, row {len(table)}"


def test_many_rows_of_parquet_come_in_batches(tmp_path):
    pa.parquet.write_table(pa.table({"n": list(range(5000))}), tmp_path / "a.parquet")
    assert [row.values["n"] for row in rows(tmp_path / "a.parquet")] == list(range(5000))


# -- CSV and TSV -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.csv", "x,y\n1,2\n", {"x": "1", "y": "2"}),
        ("a.csv", "x;y\n1,5;2\n", {"x": "1,5", "y": "2"}),
        ("a.csv", 'x,y\n"a ""b"", c\nd",2\n', {"x": 'a "b", c\nd', "y": "2"}),
        ("a.txt", "text, with commas\tlabel\n1, 2, 3\t4\n", {"text, with commas": "1, 2, 3", "label": "4"}),
        ("a.tsv", 'x\ty\n"a\tb"\n', {"x": '"a', "y": 'b"'}),
        ("a.csv", "\ufeffx|y\r\n1|2\r\n\r\n", {"x": "1", "y": "2"}),
        ("a.csv", "x\none\n", {"x": "one"}),
        ("a.csv", ",x,x\n1,2,3\n", {"1": "1", "x": "2", "3": "3"}),
    ],
)
def test_tables_as_they_are_found(tmp_path, name, data, expected):
    assert values(rows(tmp_path / name, data)) == [expected]


def test_the_options_of_tables(tmp_path):
    path = tmp_path / "a.tsv"
    assert values(rows(path, 'x\ty\n"a\tb"\tc\n', quotes=True)) == [{"x": "a\tb", "y": "c"}]
    assert values(rows(path, "a\tb\n", header=False)) == [{"1": "a", "2": "b"}]
    assert values(rows(path, "x;y\na;b\n", delimiter=";")) == [{"x": "a", "y": "b"}]
    assert values(rows(path, "x,y\na,b\n", format="csv")) == [{"x": "a", "y": "b"}]
    assert (
        values(rows(tmp_path / "b.csv", "x,y\n价格是一百元。,b\n".encode("gb18030"), encoding="gb18030"))[0]["x"]
        == "价格是一百元。"
    )
    assert values(rows(tmp_path / "b.csv", encoding="auto"))[0]["x"] == "价格是一百元。"


def test_ragged_rows_are_flaws_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.csv"
    found = rows(path, 'x,y\n1,2\nragged\n"three\nlines\nlong",3,4\n5,6\n')
    assert [item if isinstance(item, Flaw) else dict(item.values) for item in found] == [
        {"x": "1", "y": "2"},
        Flaw(f"{path}, line 3", "1 value, but 2 columns"),
        Flaw(f"{path}, line 4", "3 values, but 2 columns"),
        {"x": "5", "y": "6"},
    ]
    assert found[-1].where == f"{path}, line 7"


def test_quotes_that_do_not_end(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    assert rows(path, 'x,y\n1,"2\n3,4\n') == [
        Flaw(f"{path}, line 2", "a double quote begins a value here that never ends")
    ]
    assert rows(path, 'x,y\n"1" 2,3\n4,5\n')[0] == Flaw(
        f"{path}, line 2", "more text follows the double quote that ends a value"
    )
    with pytest.raises(InputError, match=r"a\.csv, line 1: a double quote begins a value here that never ends"):
        rows(path, '"x,y\n1,2\n')
    monkeypatch.setattr(delimited, "LONGEST", 100)
    found = rows(path, 'x,y\n1,"2\n' + "3,4\n" * 30 + '5,6"\n')
    assert found[0] == Flaw(f"{path}, line 2", "a double quote begins a value here that never ends")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_line_without_end_is_a_flaw_in_little_memory(tmp_path, monkeypatch, name):
    for module in (delimited, json_lines):
        monkeypatch.setattr(module, "LONGEST", 1000)
    monkeypatch.setattr(decode.lines, "__defaults__", (1000,))
    head = '{"x": "1", "y": "2"}\n' if name == "a.jsonl" else "x,y\n" if name == "a.csv" else "x\ty\n"
    found = rows(tmp_path / name, head + "z" * 100_000 + "\n" + head)
    wrong = [item.what for item in found if isinstance(item, Flaw)]
    assert len(wrong) == 1 and wrong[0].startswith("a line of more than ")
    assert found[-1].where.endswith("line 3")


# -- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nothing", r"a\.json is no JSON: it begins with 'n', not with a list or an object"),
        ("[1, 2", r"a\.json is no JSON: expected ',', found '' *|it ends too early"),
        ('[{"x": 1}', r"a\.json is no JSON: it ends too early"),
        ('[{"x": 1} {"x": 2}]', r"a\.json is no JSON: expected ',', found '\{', at '\{\"x\": 2\}\]'"),
        ('{"a": 1}', r"a\.json holds no list of records; its keys are: a"),
        ('{"a": [{"x": 1}], "b": [], "c": 2}', r"a\.json holds several lists: a, b"),
        ("[" * 100_000, r"a\.json is no JSON: maximum recursion depth exceeded"),
        ('[{"x": ' + "1" * 5000 + "}]", r"a\.json is no JSON: Exceeds the limit"),
    ],
)
def test_json_that_is_none(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        rows(tmp_path / "a.json", data)


def test_the_list_that_is_meant(tmp_path):
    path = tmp_path / "a.json"
    data = '{"a": [{"x": 1}], "b": [{"x": 2}], "c": 2}'
    assert values(rows(path, data, root="b")) == [{"x": 2}]
    for root, message in (("c", 'the key "c" is no list; the keys are: a, b, c'), ("d", 'the key "d" is not there')):
        with pytest.raises(InputError, match=message):
            rows(path, data, root=root)


def test_a_record_without_end_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(json_list, "LONGEST", 1000)
    monkeypatch.setattr(open_file, "BLOCK", 500)
    with pytest.raises(InputError, match=r"a record of more than 1,000 characters"):
        rows(tmp_path / "a.json", '[{"x": "' + "y" * 100_000 + '"}]')


def test_what_is_no_object_is_a_flaw(tmp_path):
    path = tmp_path / "a.jsonl"
    found = rows(path, '{"x": 1}\n\n[1]\n{"x": \n' + "[" * 100_000 + '\n{"y": 2}\n')
    assert [item.where for item in found] == [f"{path}, line {number}" for number in (1, 3, 4, 5, 6)]
    assert [item.what for item in found[1:4]] == [
        "a record must be an object with fields, not [1]",
        "not a JSON record: Expecting value at column 7",
        "not a JSON record: maximum recursion depth exceeded while decoding a JSON array from a unicode string",
    ]
    found = rows(tmp_path / "a.json", '[{"x": 1}, 2, {"x": 3}]')
    assert found[1] == Flaw(f"{tmp_path}/a.json, record 2", "a record must be an object with fields, not 2")


# -- columns and files -----------------------------------------------------------------------------------------------


def test_a_missing_column_names_those_that_are_there():
    row = Row("a.csv, line 2", {"review": "x", "stars": 5})
    with pytest.raises(
        InputError, match=r'no column "reveiw"; the columns are: review, stars\. Did you mean review\?'
    ) as caught:
        row.text("reveiw", "data.reader.text")
    assert caught.value.hint.startswith("data.reader.text=COLUMN chooses one")
    assert row.get(2, "") == row.get("2", "") == 5
    for number in (0, 3, "²"):
        with pytest.raises(InputError, match="there is no column"):
            row.get(number, "")


def test_values_are_text_labels_or_numbers():
    row = Row(
        "",
        {
            "t": "a \ud83d\ude00 \ud800",
            "e": " ",
            "n": None,
            "i": 3,
            "f": 2.0,
            "g": 2.5,
            "b": True,
            "s": "1e3",
            "l": [1],
        },
    )
    assert row.text("t", "") == "a \U0001f600 \ufffd"
    assert [row.name(each, "") for each in ("i", "f", "b", "s")] == ["3", "2", "true", "1e3"]
    assert [row.number(each, "") for each in ("i", "g", "s")] == [3.0, 2.5, 1000.0]
    for column, message in (
        ("e", "is empty"),
        ("n", "is empty"),
        ("i", "must be text, not 3"),
        ("l", r"must be text, not \[1\]"),
    ):
        with pytest.raises(InputError, match=f'the column "{column}" {message}'):
            row.text(column, "")
    for column in ("t", "n", "l"):
        with pytest.raises(InputError, match=f'the column "{column}" must be a number'):
            row.number(column, "")
    for text in ("nan", "inf", "9" * 400):
        with pytest.raises(InputError, match="must be a number"):
            Row("", {"x": text}).number("x", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.xlsx", r"a\.xlsx is a spreadsheet"),
        ("a.doc", r"a\.doc ends in \.doc, which says nothing of its format"),
        ("a", r"a has no ending, which says nothing of its format"),
        ("a.parquet", r"a\.parquet is not a whole Parquet file"),
        ("a.feather", r"a\.feather is not a whole Arrow file"),
    ],
)
def test_files_of_other_kinds(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        rows(tmp_path / name, "some text")


def test_wrong_bytes_name_the_option(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv is not UTF-8: byte 0xe9 at offset 11") as caught:
        rows(tmp_path / "a.csv", "text\nun café\n".encode("latin-1"))
    assert caught.value.hint == "data.reader.encoding=latin-1 reads it"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "xml"}, r"data\.reader\.format \(xml\) must be one of arrow, auto, csv, json, jsonl, parquet, tsv"),
        ({"delimiter": "::"}, r"data\.reader\.delimiter \('::'\) must be one character"),
        ({"delimiter": "\n"}, r"data\.reader\.delimiter \('\\n'\) must be"),
        ({"encoding": "utf-9"}, r"data\.reader\.encoding: there is no encoding called utf-9"),
    ],
)
def test_options_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        reader(**changes)
