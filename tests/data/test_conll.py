from __future__ import annotations

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data.reader import Flaw
from llmcli.data.readers import conll
from llmcli.data.readers.conll import ConllColumns
from llmcli.data.records import TaggedTokens
from llmcli.errors import InputError

TEXT = """-DOCSTART- -X- O O

Ada NNP I-PER
met VBD O
Bob NNP I-PER
Carol NNP B-PER


in IN O
Oslo NNP I-LOC
"""


def reader(**changes):
    options = {"token": 1, "tag": -1, "scheme": "auto", "separator": None, "comment": None, "encoding": "utf-8"}
    return ConllColumns(**{**options, **changes})


@pytest.fixture
def read(tmp_path):
    def call(text, name="a.conll", **changes):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return list(reader(**changes).read([path]))

    return call


def test_sentences_without_documents_lines(read):
    found = [
        TaggedTokens(("Ada", "met", "Bob", "Carol"), ("B-PER", "O", "B-PER", "B-PER")),
        TaggedTokens(("in", "Oslo"), ("O", "B-LOC")),
    ]
    assert read(TEXT) == read(TEXT, scheme="iob1") == read(TEXT.replace("\n", "\r\n")) == found
    assert read(gzip.compress(TEXT.encode()), "a.conll.gz") == found


def test_columns_separator_and_comments_are_chosen(read):
    assert read(TEXT, tag=2, scheme="none")[1] == TaggedTokens(("in", "Oslo"), ("IN", "NNP"))
    text = "# text = New York\nNew York\tB-LOC\n#1\tO\n"
    assert read(text, separator="\t", comment="# ") == [TaggedTokens(("New York", "#1"), ("B-LOC", "O"))]


def test_flaws_name_the_line_and_the_rest_is_read(read, tmp_path):
    path = tmp_path / "a.conll"
    assert read("a O\nb\n\nc O\n", tag=2) == [
        Flaw(f"{path}, line 2", "1 column, but token is in column 1 and tag in column 2"),
        TaggedTokens(("c",), ("O",)),
    ]
    assert read("a x O\nb O\n\n", token=1, tag=3)[0] == Flaw(
        f"{path}, line 2", "2 columns, but token is in column 1 and tag in column 3"
    )
    assert read("a\tO\n\tO\n", separator="\t") == [Flaw(f"{path}, line 2", "the token is empty")]
    (flaw,) = read("\n\na O\nb I-X\n", scheme="iob2")
    assert (flaw.where, flaw.what) == (f"{path}, line 3", "tag 2, I-X, goes on with X where none began")


def test_a_file_without_empty_lines_is_not_kept_in_memory(read, monkeypatch):
    monkeypatch.setattr(conll, "LONGEST", 100)
    found = read("word O\n" * 100)
    assert {flaw.what for flaw in found[:-1]} == {"a sentence of more than 100 characters: no empty line ends it"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": 0}, "data.reader.token (0) must be a column: 1 is the first, -1 the last"),
        ({"scheme": "iob"}, "data.reader.scheme (iob) must be one of auto, none, iob1, iob2, bioes, bmes"),
        ({"separator": ""}, "data.reader.separator must be characters, or null"),
        ({"encoding": "utf-9"}, "data.reader.encoding: there is no encoding called utf-9"),
    ],
)
def test_options_that_cannot_be(changes, message):
    with pytest.raises(InputError) as raised:
        reader(**changes)
    assert str(raised.value) == message


QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1).filter(lambda word: word != conll.DOCUMENT)


@QUICK
@given(st.lists(st.lists(st.tuples(words, st.sampled_from(["O", "B-x", "NN"])), min_size=1), max_size=4))
def test_what_is_written_is_read(read, sentences):
    text = "\n".join("".join(f"{word} {tag}\n" for word, tag in sentence) for sentence in sentences)
    found = read(text, scheme="none")
    assert found == [TaggedTokens(*zip(*sentence, strict=True)) for sentence in sentences]


@QUICK
@given(st.binary(max_size=200), st.sampled_from(["auto", "utf-8"]))
def test_any_bytes_give_sentences_flaws_or_an_error(read, data, encoding):
    try:
        assert all(isinstance(each, TaggedTokens | Flaw) for each in read(data, encoding=encoding))
    except InputError as err:
        assert "a.conll" in str(err)
