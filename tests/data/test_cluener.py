from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data.reader import Flaw
from llmcli.data.readers.cluener import CluenerLines
from llmcli.data.records import TaggedTokens
from llmcli.errors import InputError


@pytest.fixture
def read(tmp_path):
    def call(*lines):
        path = tmp_path / "a.json"
        data = b"\n".join(
            line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() for line in lines
        )
        path.write_bytes(data)
        return list(CluenerLines(encoding="utf-8").read([path]))

    return call


def line(text, **label):
    return {"text": text, "label": label}


def test_spans_end_on_their_last_character(read):
    (found,) = read(line("王芳在北京，王芳", name={"王芳": [[0, 1], [6, 7]]}, address={"北京": [[3, 4]]}))
    assert found == TaggedTokens(
        tuple("王芳在北京，王芳"),
        ("B-name", "I-name", "O", "B-address", "I-address", "O", "B-name", "I-name"),
    )
    assert read(line("无名")) == [TaggedTokens(("无", "名"), ("O", "O"))]


@pytest.mark.parametrize(
    ("given_line", "what"),
    [
        (line("王芳", name={"王芳": [[0, 2]]}), "'王芳' is at 0 to 2 of a text of 2 characters"),
        (line("王芳", name={"王芳": [[1, 0]]}), "'王芳' is at 1 to 0 of a text of 2 characters"),
        (line("王芳", name={"王": [[-1, -1]]}), "'王' is at -1 to -1 of a text of 2 characters"),
        (line("王芳", name={"芳": [[0, 0]]}), "'芳' is said to be at 0, where '王' stands"),
        (line("王芳", name={"王芳": [[0, 1]]}, game={"芳": [[1, 1]]}), "'芳' at 1 overlaps with another mention"),
        (line("王芳", name={"王": [0, 0]}), "the places of '王' must be pairs of numbers, not [0, 0]"),
        (line("王芳", name=["王"]), "the mentions of name must be an object, not ['王']"),
        ({"text": "王芳"}, "there are no labels: a test set that keeps them back"),
        ({"label": {}}, 'there is no column "text"; the columns are: label.'),
        (b"{", "not a JSON record: Expecting property name enclosed in double quotes at column 2"),
    ],
)
def test_flaws_say_what_is_wrong(read, tmp_path, given_line, what):
    assert [
        each if isinstance(each, TaggedTokens) else (each.where, each.what) for each in read(line("好"), given_line)
    ] == [
        TaggedTokens(("好",), ("O",)),
        (f"{tmp_path / 'a.json'}, line 2", what),
    ]


QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
anything = st.recursive(
    st.none() | st.integers(-2, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


@QUICK
@given(anything | st.fixed_dictionaries({"text": st.text(), "label": anything}))
def test_any_json_gives_a_sentence_or_a_flaw(read, value):
    assert all(isinstance(each, TaggedTokens | Flaw) for each in read(value))


@QUICK
@given(st.binary(max_size=100))
def test_any_bytes_give_flaws_or_an_error(read, data):
    try:
        assert all(isinstance(each, TaggedTokens | Flaw) for each in read(data))
    except InputError as err:
        assert "a.json" in str(err)
