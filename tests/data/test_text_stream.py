from __future__ import annotations

import gzip
import lzma
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.data.readers.stream import LINE, blocks, paragraphs, parts, pieces
from llmcli.data.source import stretch, tail_bounds
from llmcli.errors import InputError

streams = st.lists(st.text(alphabet="ab \t\né語", max_size=30), max_size=12)


def read(path, encoding="utf-8", errors="strict"):
    return "".join(blocks(path, encoding=encoding, errors=errors))


@settings(deadline=None)
@given(streams, st.integers(1, 12))
def test_pieces_joined_are_the_document(stream, limit):
    found = list(pieces(stream, limit))
    assert "".join(piece.text for piece in found) == "".join(stream)
    assert all(0 < len(piece.text) <= limit for piece in found)
    assert [piece.end for piece in found] == [False] * (len(found) - 1) + [True] * bool(found)


@settings(deadline=None)
@given(streams, st.integers(1, 12))
def test_parts_joined_are_the_lines(stream, limit):
    text = "".join(stream)
    expected = text.removesuffix("\n").split("\n") if text else []
    documents = [""]
    for piece in parts(stream, LINE, limit):
        assert len(piece.text) <= limit
        documents[-1] += piece.text
        if piece.end:
            documents.append("")
    assert documents.pop() == ""
    assert documents == expected


@pytest.mark.parametrize(
    ("text", "limit", "found"),
    [
        ("one\ntwo three", 10, ["one\n", "two three"]),
        ("one\n\n\n two", 6, ["one\n\n\n", " two"]),
        ("one\ntwo\n\n# 3", 9, ["one\n", "two\n\n# 3"]),
        ("1\n2\n3\n", 5, ["1\n2\n", "3\n"]),
        ("one two three", 10, ["one two", " three"]),
        ("one\ttwo\tthree", 10, ["one\ttwo\t", "three"]),
        ("onetwothree", 10, ["onetwothre", "e"]),
    ],
)
def test_a_long_document_is_cut_where_no_subword_lies_across_else_at_white_space_else_hard(text, limit, found):
    assert [piece.text for piece in pieces([text], limit)] == found


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_paragraphs_do_not_depend_on_how_the_text_arrives(size):
    text = "one\ntwo\n\n\n \t\nthree\n\nfour\n"
    stream = [text[at : at + size] for at in range(0, len(text), size)]
    found = [piece.text for piece in paragraphs(stream)]
    assert found == ["one\ntwo", "three", "four"]


@settings(deadline=None)
@given(streams, st.floats(0, 0.4), st.floats(0, 0.4), st.integers(1, 12))
def test_stretches_by_position_cover_the_text_once(stream, val, test, limit):
    documents = [piece for text in stream for piece in pieces([text], limit)]
    total = sum(len(piece.text) for piece in documents)
    found = [list(stretch(documents, *bounds)) for bounds in tail_bounds(total, val, test).values()]
    assert "".join(piece.text for split in found for piece in split) == "".join(stream)
    assert all(split[-1].end for split in found if split)


def test_line_ends_and_the_byte_order_mark_are_normalised(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read(path) == "one\ntwo\nthree\n"


def test_characters_and_line_ends_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("llmcli.data.open_file.BLOCK", 1)
    path = tmp_path / "a.txt"
    path.write_bytes("é\r\n語\r\n".encode())
    assert read(path) == "é\n語\n"


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".xz", lzma)])
def test_compressed_files_are_read_and_a_cut_one_is_named(tmp_path, suffix, module):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(module.compress(b"some text\n" * 1000))
    assert read(path) == "some text\n" * 1000
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} is cut short"):
        read(path)
    path.write_bytes(b"no compressed data")
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} is not a whole {suffix} file"):
        read(path)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_a_wrong_byte_is_named_with_its_offset_and_a_likely_encoding(tmp_path, monkeypatch, block):
    monkeypatch.setattr("llmcli.data.open_file.BLOCK", block)
    path = tmp_path / "book.txt"
    path.write_bytes("é is fine\n".encode() + b"a caf\xe9 in town\n")
    with pytest.raises(InputError, match=r'book.txt is not UTF-8: byte 0xe9 at offset 16 \("') as caught:
        read(path)
    assert "It looks like latin-1." in str(caught.value)
    assert caught.value.hint == "data.encoding=latin-1 reads it; data.errors=replace keeps going."
    assert read(path, errors="replace") == "é is fine\na caf\ufffd in town\n"


def test_the_offset_is_that_of_the_decompressed_text(tmp_path):
    path = tmp_path / "book.txt.gz"
    path.write_bytes(gzip.compress(b"x" * 5000 + b"caf\xe9s"))
    with pytest.raises(InputError, match="byte 0xe9 at offset 5,003"):
        read(path)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("今天天气很好，我们去公园散步。", "gb18030"),
        ("Les élèves étaient à l'école, déjà âgés de dix-huit ans, près du château.", "latin-1"),
        ("any text", "utf-16"),
    ],
)
def test_the_guessed_encoding_reads_the_file(tmp_path, text, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=f"It looks like {encoding}"):
        read(path)
    assert read(path, encoding) == text
