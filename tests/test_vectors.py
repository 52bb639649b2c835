"""Files of word vectors: what is written comes back, other programs read it, and damage is named."""

from __future__ import annotations

import contextlib
import gzip

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli import vectors
from llmcli.errors import InputError
from llmcli.vectors import VectorFile

WORDS = ["the", "国王", "naïve", "3", "2.5", "-", "café"]
MATRIX = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
FORMATS = ("word2vec", "word2vec_binary", "glove")
few = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(path, **kwargs):
    return dict(VectorFile.open(path).read(**kwargs))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("suffix", [".vec", ".vec.gz"])
def test_what_is_written_comes_back_exactly(tmp_path, form, suffix):
    path = tmp_path / f"some{suffix}"
    assert vectors.write(path, WORDS, MATRIX, form) == 7
    header = VectorFile.open(path)
    assert (header.format, header.dimensions) == (form, 5) and header.count == (None if form == "glove" else 7)
    found = read(path)
    assert list(found) == WORDS
    assert np.array_equal(np.stack(list(found.values())), MATRIX)


@given(
    words=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=8),
        min_size=1,
        unique=True,
    ),
    width=st.integers(1, 6),
    form=st.sampled_from(FORMATS),
    seed=st.integers(0, 9),
)
@few
def test_any_words_and_numbers_come_back(tmp_path, words, width, form, seed):
    words = [word for word in words if word.split() == [word]] or ["word"]
    if form == "glove" and width == 1 and words[0].isdecimal():
        words[0] = "word"  # two numbers on the first line are a header
    matrix = np.random.default_rng(seed).integers(0, 2**32, (len(words), width), dtype=np.uint32).view(np.float32)
    matrix = np.where(np.isfinite(matrix), matrix, np.float32(0))
    vectors.write(tmp_path / "some", words, matrix, form)
    found = read(tmp_path / "some")
    assert list(found) == words
    assert np.array_equal(np.stack(list(found.values())), matrix)


@given(content=st.binary(max_size=300))
@few
def test_random_bytes_are_refused_or_read_but_never_crash(tmp_path, content):
    for name in ("some.bin", "some.gz"):
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(InputError):
            read(tmp_path / name)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_a_file_that_was_cut_off_is_refused(tmp_path, form, suffix, keep):
    path = tmp_path / f"some{suffix}"
    vectors.write(path, WORDS, MATRIX, form)
    content = path.read_bytes()
    cut = content[: int(keep * len(content))]
    path.write_bytes(cut if suffix or form == "word2vec_binary" else cut.rstrip(b"\n").rpartition(b" ")[0])
    with pytest.raises(InputError):
        read(path)


def test_gensim_reads_what_we_write_and_we_what_gensim_writes(tmp_path):
    keyed = pytest.importorskip("gensim.models.keyedvectors").KeyedVectors
    for form, binary in (("word2vec", False), ("word2vec_binary", True)):
        ours, theirs = tmp_path / f"ours-{form}", tmp_path / f"theirs-{form}"
        vectors.write(ours, WORDS, MATRIX, form)
        loaded = keyed.load_word2vec_format(str(ours), binary=binary)
        assert loaded.index_to_key == WORDS and np.array_equal(loaded.vectors, MATRIX)
        loaded.save_word2vec_format(str(theirs), binary=binary)
        found = read(theirs)
        assert VectorFile.open(theirs).format == form
        assert list(found) == WORDS
        np.testing.assert_allclose(np.stack(list(found.values())), MATRIX, rtol=1e-6)
    vectors.write(tmp_path / "glove", WORDS, MATRIX, "glove")  # the same without the first line
    assert (tmp_path / "glove").read_bytes() == (tmp_path / "ours-word2vec").read_bytes().split(b"\n", 1)[1]


def test_the_shapes_that_word2vec_c_and_glove_leave(tmp_path):
    """A space at each line's end, a newline after each binary vector, words of GloVe that hold spaces."""
    path = tmp_path / "some"
    path.write_bytes(b"2 2\n</s> 0.5 -1 \nin 1e-3 2 \n")
    assert {word: vector.tolist() for word, vector in read(path).items()} == {
        "</s>": [0.5, -1.0], "in": [pytest.approx(0.001), 2.0],
    }  # fmt: skip
    newline_first = np.frombuffer(b"\x0a\x00\x00\x00\x00\x00\x80\x3f", "<f4")  # a number that begins with a line feed
    path.write_bytes(b"2 2\n</s> " + newline_first.tobytes() + b"\nin " + np.float32([3, 4]).tobytes())
    assert VectorFile.open(path).format == "word2vec_binary"
    assert read(path)["in"].tolist() == [3.0, 4.0]
    path.write_bytes(b"the 1 2\n. . 3 4\n\nat name@domain.com 5 6\n")
    assert {word: vector.tolist() for word, vector in read(path).items()} == {
        "the": [1.0, 2.0], ". .": [3.0, 4.0], "at name@domain.com": [5.0, 6.0],
    }  # fmt: skip


def test_only_the_wanted_are_read(tmp_path):
    path = tmp_path / "some"
    path.write_bytes(b"a 1 2\nb 3 x\nc 5 6\n")
    assert list(read(path, wanted=lambda word: word != "b")) == ["a", "c"]
    with pytest.raises(InputError, match="some, line 2: could not convert string to float"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a file of word vectors: it begins b''"),
        (b"one\n", "is not a file of word vectors"),
        (b"3 2\na 1 2\nb 3 4\n", "holds 2 vectors where its first line says 3"),
        (b"1 2\na 1 2\nb 3 4\n", "holds 2 vectors where its first line says 1"),
        (b"a 1 2\nb 3\n", "some, line 2: 1 numbers instead of 2"),
        (b"2 2\na 1 2\nb 3\n", "some, line 3: 1 numbers instead of 2"),
        (b"a 1 nan\n", "the vector of 'a' has numbers that are not finite"),
        (b"1 999999\na 1 2\n", "is not a file of word vectors"),
        (b"9" * 5_000_000, "line 1 is longer than 4,194,304 bytes"),
    ],
)
def test_damage_is_named(tmp_path, content, message):
    path = tmp_path / "some"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert message in str(caught.value)


def test_a_damaged_archive_is_named(tmp_path):
    path = tmp_path / "some.gz"
    path.write_bytes(gzip.compress(b"a 1 2\n" * 1000)[:-20])
    with pytest.raises(InputError, match="cannot be unpacked"):
        read(path)
    path.write_bytes(b"a 1 2\n")
    with pytest.raises(InputError, match="cannot be unpacked: Not a gzipped file"):
        read(path)


def test_words_that_hold_white_space_are_left_out(tmp_path):
    assert vectors.write(tmp_path / "some", ["a", " ", "b c", "\n", "d"], MATRIX[:5], "word2vec") == 2
    assert list(read(tmp_path / "some")) == ["a", "d"]


def test_an_unknown_format_and_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="format must be one of word2vec, word2vec_binary, glove, not 'pickle'"):
        vectors.write(tmp_path / "some", ["a"], MATRIX[:1], "pickle")
    with pytest.raises(InputError, match=r"cannot read .*nowhere: No such file"):
        VectorFile.open(tmp_path / "nowhere")
