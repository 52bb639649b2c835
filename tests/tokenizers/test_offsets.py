"""Where ids stand in their text: of every tokenizer, for every text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_tokenizers import CORPUS, TOKENIZERS, texts, train_word

from llmcli.tokenizers import char

WORDS = {**TOKENIZERS, "lower": train_word([CORPUS.lower()], lower_case=True)}


def spans(tokenizer, text):
    ids = tokenizer.encode(text)
    found = tokenizer.offsets(text, ids)
    assert found.shape == (len(ids), 2) and found.dtype == np.int64
    return ids, found.tolist()


@pytest.mark.parametrize("tokenizer", WORDS.values(), ids=WORDS)
@given(text=texts)
@example(text="a İstanbul ΣΑΣ b")  # a capital that is two characters in lower case
@example(text="é你😀\u2581x")
def test_ids_stand_in_order_and_nothing_but_white_space_lies_between(tokenizer, text):
    _, found = spans(tokenizer, text)
    end = 0
    for start, stop in found:
        assert 0 <= start < stop <= len(text)
        assert not text[end:start].strip() or start < end  # a character that is several ids is of each of them
        end = max(end, stop)
    assert not text[end:].strip()


@pytest.mark.parametrize("name", ["byte", "bpe", "unigram"])
@given(text=texts, cut=st.tuples(st.integers(0, 40), st.integers(0, 40)))
@example(text="你好，世界 naïve 😀", cut=(1, 4))
def test_ids_between_whole_characters_are_exactly_the_text_at_their_place(name, text, cut):
    tokenizer = TOKENIZERS[name]
    ids, found = spans(tokenizer, text)
    first, last = min(cut), min(max(cut), len(ids))
    whole_start = first < last and (first == 0 or found[first - 1][1] <= found[first][0])
    whole_end = first < last and (last == len(ids) or found[last][0] >= found[last - 1][1])
    if whole_start and whole_end:
        assert tokenizer.decode(ids[first:last]) == text[found[first][0] : found[last - 1][1]]


@pytest.mark.parametrize("name", ["words", "whitespace", "jieba", "char"])
@given(text=texts)
def test_a_known_word_or_character_is_what_stands_at_its_place(name, text):
    tokenizer = TOKENIZERS[name]
    for index, (start, stop) in zip(*spans(tokenizer, text), strict=True):
        assert index == tokenizer.unk_id or tokenizer.decode([index]) == text[start:stop]


def test_by_hand():
    assert spans(TOKENIZERS["byte"], "a你b")[1] == [[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]]
    assert spans(char.train(["ab"], min_frequency=1), "xa")[1] == [[0, 1], [1, 2]]
    assert spans(TOKENIZERS["words"], "don't  stop")[1] == [[0, 2], [2, 5], [7, 11]]
    assert spans(WORDS["lower"], "İ it")[1][-1] == [2, 4]
    assert spans(TOKENIZERS["bpe"], "")[1] == []


@pytest.mark.parametrize("name", ["bpe", "unigram"])
@given(text=texts, seed=st.integers(0, 99))
def test_whichever_way_a_text_was_cut(name, text, seed):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode_sampled(text, alpha=0.3, seed=seed)
    found = tokenizer.offsets(text, np.array(ids)).tolist()
    assert len(found) == len(ids) and (not ids or (found[0][0], found[-1][1]) == (0, len(text)))
