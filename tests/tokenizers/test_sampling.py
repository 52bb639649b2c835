from __future__ import annotations

import random
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmcli.errors import InputError
from llmcli.tokenizers.byte import ByteTokenizer
from llmcli.tokenizers.subword import train

TEXT = "the cat sat on a mat and quickly ran away from some other running cats"
WORDS = TEXT.split()
SHORT = " ".join(WORDS[:8])


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request):
    texts = [" ".join(random.Random(seed).choices(WORDS, k=12)) for seed in range(400)]
    return train(
        texts,
        algorithm=request.param,
        vocab_size=360,
        character_coverage=1.0,
        max_piece_length=16,
        sample_characters=10**6,
        seed=1,
    )


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.integers(0, 2**63))
@example("a\u2581b \u2581", 1)
@example("", 0)
def test_a_sample_decodes_to_the_text_and_is_the_same_for_the_same_seed(tokenizer, text, seed):
    ids = tokenizer.encode_sampled(text, alpha=0.3, seed=seed)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_sampled(text, alpha=0.3, seed=seed) == ids


def test_seeds_differ_whatever_was_drawn_before(tokenizer):
    drawn = [tuple(tokenizer.encode_sampled(SHORT, alpha=0.1, seed=seed)) for seed in range(20)]
    assert len(set(drawn)) > 10
    again = [tuple(tokenizer.encode_sampled(SHORT, alpha=0.1, seed=seed)) for seed in reversed(range(20))]
    assert again == drawn[::-1]


def test_threads_do_not_disturb_each_other(tokenizer):
    expected = [tokenizer.encode_sampled(SHORT, alpha=0.2, seed=seed) for seed in range(40)]
    found = {}

    def draw(first):
        for seed in range(first, 40, 4):
            found[seed] = tokenizer.encode_sampled(SHORT, alpha=0.2, seed=seed)

    threads = [threading.Thread(target=draw, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(40)] == expected


def test_alpha_says_how_freely(tokenizer):
    def length(alpha):
        return sum(len(tokenizer.encode_sampled(SHORT, alpha=alpha, seed=seed)) for seed in range(30)) / 30

    usual = len(tokenizer.encode(SHORT))
    bpe = tokenizer.encode_sampled(SHORT, alpha=0.0, seed=1) == tokenizer.encode(SHORT)
    if bpe:  # the share of merges left out: none, some, all
        assert usual < length(0.1) < length(0.5) < length(1.0) == len(SHORT)
    else:  # the power of a way's probability: all ways alike, as likely as they are
        assert length(0.0) > length(0.3) > length(1.0) >= usual


def test_others_have_one_way_to_cut_a_text():
    with pytest.raises(InputError, match=r"augment=\[subword_sampling\] needs a tokenizer") as caught:
        ByteTokenizer().encode_sampled("a", alpha=0.1, seed=1)
    assert "tokenizer=bpe" in caught.value.hint
