"""Byte-pair encoding of the parts of a text is that of the whole, as SentencePiece makes it."""

from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import InputError
from llmcli.tokenizers import cuts, subword
from llmcli.tokenizers.cuts import parts_of

TEXT = (
    "def encode(self, texts):\n    for text in texts:\n        print(text.lower(), 1_000, 'it\\'s')\n\n"
    "今天天气很好，我们去公园。他说：“好的。”\n"
    "The cats sat on the mat; the rats, too -- they didn't mind.\n\t\tTabs  and   spaces \n"
)


@pytest.fixture(scope="module")
def bpe():
    options = {"character_coverage": 1.0, "max_piece_length": 16, "sample_characters": 10**6, "seed": 0}
    return subword.train([TEXT * 20], algorithm="bpe", vocab_size=420, **options)


def whole(tokenizer, text):
    """SentencePiece's own encoding of a text at once; it cannot tell U+2581 from a space, so none may be in it."""
    return tokenizer._processor.encode(text.encode())


@given(st.text(st.sampled_from(sorted(set(TEXT)) + list("zé\u3000\0\U0001f600")), max_size=60))
@settings(max_examples=300, deadline=None)
def test_parts_give_the_ids_of_the_whole(bpe, text):
    assert bpe.encode(text) == whole(bpe, text)
    assert bpe.encode_batch([text, TEXT, text]) == [whole(bpe, text), whole(bpe, TEXT), whole(bpe, text)]


def test_forgetting_and_long_parts_change_nothing(bpe, monkeypatch):
    monkeypatch.setattr(cuts, "_REMEMBERED", 3)
    monkeypatch.setattr(cuts, "_LONGEST", 4)
    for start in range(0, 300, 7):
        assert bpe.encode(TEXT[start:]) == whole(bpe, TEXT[start:])
    assert all(len(part) <= 4 for part in bpe._parts._known)


def test_a_space_mark_in_the_text_is_its_bytes_and_a_surrogate_is_named_by_its_place(bpe):
    assert bpe.decode(bpe.encode("a \u2581 \u2581b")) == "a \u2581 \u2581b"
    with pytest.raises(InputError, match="at character 6"):
        bpe.encode("cats, \ud800")


def test_a_tokenizer_can_be_sent_to_a_worker(bpe):
    bpe.encode(TEXT)
    copy = pickle.loads(pickle.dumps(bpe))
    assert copy.encode(TEXT) == bpe.encode(TEXT)
    assert len(pickle.dumps(bpe)) < len(bpe.files()["sentencepiece.model"]) * 6, "without what it remembers"


@pytest.mark.parametrize(
    ("pieces", "parts"),
    [
        (["a", "\u2581the", "\u2581\u2581", ");\n", "\u2581("], [" a", "  the", "(", "b", ");\n", " x", " "]),
        (["a", "\u2581the", "n't"], [" a", "  the(b);\n", " x", " "]),
        (["a", "1_0", "_("], [" a", "  the", "(", "b", ");\n", " x", " "]),
        (["a", "of\u2581the"], None),
    ],
)
def test_the_finest_cut_that_no_piece_lies_across(pieces, parts):
    pattern = parts_of(pieces)
    assert pattern is None if parts is None else pattern.findall(" a  the(b);\n x ") == parts


def test_a_unigram_model_is_not_cut():
    options = {"character_coverage": 1.0, "max_piece_length": 16, "sample_characters": 10**6, "seed": 0}
    unigram = subword.train([TEXT * 20], algorithm="unigram", vocab_size=350, **options)
    assert unigram.encode(TEXT) == whole(unigram, TEXT)
    assert unigram._parts is None and isinstance(cuts._PARTS[0], re.Pattern)
