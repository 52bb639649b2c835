"""Blocks of words near each other: every pair within reach and no other, drawn as the paper says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcli.data.pairs import BLOCK, WordBlocks, keep_probability, word_counts
from llmcli.data.windows import EvaluationWindows, TrainingWindows

VOCAB, RESERVED, EOS = 60, 16, 3
few = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def blocks(tokens, *, size=2, seq_len=50, evaluate=False, **changes):
    kind = {"stride": seq_len, "pad_id": 0} if evaluate else {"seed": 5, "contiguous": False}
    windows = (EvaluationWindows if evaluate else TrainingWindows)(tokens, size=size, seq_len=seq_len, **kind)
    options = {"window": 3, "subsample": 0.0, "negatives": 5, "shared": 8, "ns_exponent": 0.75, "seed": 7, **changes}
    return WordBlocks(windows, counts=word_counts(tokens, VOCAB, RESERVED), boundary=EOS, **options)


def text(length, seed=0, specials=True):
    """Ids with a document end here and there and unknown words in between."""
    ids = np.random.default_rng(seed).integers(RESERVED, VOCAB, length)
    if specials:
        ids[::13], ids[5::17] = EOS, 1
    return ids


def in_a_row(batch):
    """The blocks of a batch laid end to end: words (n,), and for each the places of those that are near it."""
    near, edge = batch["near"].numpy(), (batch["near"].shape[2] - BLOCK) // 2
    words = batch["centres"].numpy().ravel()
    places = [
        {block * BLOCK + int(each) - edge for each in np.flatnonzero(near[block, centre])}
        for block in range(near.shape[0])
        for centre in range(BLOCK)
    ]
    return words, places


@given(length=st.integers(120, 700), window=st.integers(1, 6), seed=st.integers(0, 99))
@few
def test_a_word_pairs_with_all_within_its_reach_and_never_over_a_document_end(shards, length, window, seed):
    ids = text(length, seed)
    plan = blocks(shards(ids), window=window)
    for number in range(len(plan)):
        batch, source = plan.batch(0, number), plan.windows.batch(0, number)["ids"].numpy()
        # the words that stay, and where a document or window begins, found one by one
        words, document, current = [], [], 0
        for row in source:
            current += 1
            for index in row:
                if index == EOS:
                    current += 1
                elif index >= RESERVED:
                    words.append(index)
                    document.append(current)
        found, places = in_a_row(batch)
        assert found[: len(words)].tolist() == words and not found[len(words) :].any()
        for centre, near in enumerate(places):
            reach = max((abs(each - centre) for each in near), default=0)
            around = range(max(0, centre - reach), min(len(words), centre + reach + 1))
            same = (
                {each for each in around if each != centre and document[each] == document[centre]} if reach else set()
            )
            assert near == same and reach <= window
        assert batch["pairs"] == sum(map(len, places)) and batch["predicted"] == sum(map(bool, places))
        assert batch["n_tokens"] == source.size


def test_around_a_block_stand_the_words_of_its_neighbours(shards):
    plan = blocks(shards(text(2000, specials=False)), size=8, seq_len=120)
    batch = plan.batch(0, 0)
    words = batch["centres"].ravel()
    for block, around in enumerate(batch["words"][:, : BLOCK + 6]):
        for offset, word in enumerate(around.tolist()):
            place = block * BLOCK + offset - 3
            assert word == (words[place] if 0 <= place < len(words) else 0)


def test_the_reach_is_uniform(shards):
    """A pair at distance d of a window of 4 is kept with probability (5 - d) / 4."""
    plan = blocks(shards(text(20_000, specials=False)), size=40, seq_len=200, window=4)
    near = torch.cat([plan.batch(0, number)["near"] for number in range(len(plan))]).float()
    share = near[:, 8:24].diagonal(12, 1, 2).mean()  # distance 0: never
    assert share == 0
    for distance in range(1, 5):
        found = near[:, 8:24].diagonal(12 + distance, 1, 2).mean()
        assert found == pytest.approx((5 - distance) / 4, abs=0.03)


def test_negatives_follow_the_counts(shards):
    ids = np.repeat(np.arange(RESERVED, RESERVED + 4), [1000, 3000, 9000, 27_000])
    np.random.default_rng(0).shuffle(ids)
    plan = blocks(shards(ids), size=20, seq_len=500, ns_exponent=0.5, shared=64)
    drawn = torch.cat([plan.batch(0, number)["words"][:, -64:].ravel() for number in range(len(plan))])
    expected = np.sqrt([1000, 3000, 9000, 27_000])
    counts = np.bincount(drawn.numpy(), minlength=VOCAB)[RESERVED : RESERVED + 4]
    np.testing.assert_allclose(counts / counts.sum(), expected / expected.sum(), atol=0.01)
    assert counts.sum() == len(drawn), "an id that never occurs was drawn"
    assert plan.batch(0, 0)["negative_weight"] == 5 / 64


def test_frequent_words_are_dropped_as_often_as_word2vec_drops_them(shards):
    counts = np.array([0, 900, 90, 9, 1])
    share = counts[1:] / 1000
    expected = np.minimum(1, (np.sqrt(share / 0.01) + 1) * 0.01 / share)
    np.testing.assert_allclose(keep_probability(counts, 0.01)[1:], expected)
    assert keep_probability(counts, 0.01)[0] == 0
    assert keep_probability(counts, 0.0).tolist() == [0, 1, 1, 1, 1]
    ids = np.repeat([20, 30], [36_000, 4000])
    np.random.default_rng(0).shuffle(ids)
    plan = blocks(shards(ids), size=20, seq_len=500, subsample=0.01)
    found = [plan.batch(0, number) for number in range(len(plan))]
    kept = sum(int((batch["centres"] == 20).sum()) for batch in found)
    read = 0.9 * sum(batch["n_tokens"] for batch in found)
    assert kept / read == pytest.approx(np.sqrt(0.01 / 0.9) + 0.01 / 0.9, rel=0.1)


def test_a_batch_is_a_function_of_seed_epoch_and_number(shards):
    tokens = shards(text(3000))
    one, other = blocks(tokens, subsample=0.01), blocks(tokens, subsample=0.01)
    last = one.batch(1, 4)
    for number in range(3):  # whatever was asked for before
        other.batch(0, number)
    again, different = other.batch(1, 4), other.batch(2, 4)
    for name in ("centres", "words", "near"):
        assert torch.equal(last[name], again[name])
    assert not torch.equal(last["words"], different["words"])
    assert last["index"] == again["index"] != different["index"]


def test_evaluation_reads_every_word_once_and_ignores_padding(shards):
    ids = text(331)
    plan = blocks(shards(ids), evaluate=True)
    found = [plan.batch(0, number) for number in range(len(plan))]
    words = torch.cat([batch["centres"].ravel() for batch in found])
    expected = ids[:-1][ids[:-1] >= RESERVED]  # the last token is the label of none
    assert words[words > 0].tolist() == expected.tolist()
    assert sum(batch["n_tokens"] for batch in found) == 330


def test_a_window_without_a_word_gives_an_empty_block(shards):
    ids = np.full(300, EOS)
    ids[:80] = RESERVED + 1
    plan = blocks(shards(ids), size=1, seq_len=20)
    pairs = [plan.batch(0, number)["pairs"] for number in range(len(plan))]
    assert 0 in pairs and max(pairs) > 0
