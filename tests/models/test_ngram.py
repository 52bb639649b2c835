"""The n-gram model equals a direct transcription of the papers' formulas."""

import math
import time
from collections import Counter

import numpy as np
import pytest
import torch

from llmcli.errors import InputError
from llmcli.models.ngram import NGram, floor


def corpus(length, vocab_size, seed=0):
    """Skewed ids with repetition, so that every count of counts is there."""
    rng = np.random.default_rng(seed)
    ids = rng.zipf(1.5, length) % vocab_size
    copies = rng.integers(0, length - 20, length // 20)
    for at in range(0, length - 20, 40):
        source = copies[at // 40]
        ids[at : at + 10] = ids[source : source + 10]
    return ids


def fitted(ids, vocab_size, order=3, discounts="modified"):
    model = NGram(vocab_size=vocab_size, order=order, discounts=discounts)
    model.fit(ids)
    return model


class Naive:
    """Chen & Goodman 1998, one dictionary per order and one recursive function."""

    def __init__(self, ids, vocab_size, order, discounts):
        self.vocab_size = vocab_size
        ids = [int(i) for i in ids]
        grams = {n: [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)] for n in range(1, order + 1)}
        self.counts = {order: Counter(grams[order])}
        for n in range(1, order):
            self.counts[n] = Counter(gram[1:] for gram in set(grams[n + 1]))
        self.discounts = {n: self.estimate(counter, discounts) for n, counter in self.counts.items()}

    @staticmethod
    def estimate(counter, discounts):
        n1, n2, n3, n4 = (sum(count == i for count in counter.values()) for i in (1, 2, 3, 4))
        if n1 == 0 or n2 == 0 or (discounts == "modified" and n3 == 0):
            return 0.5, 1.0, 1.5
        y = n1 / (n1 + 2 * n2)
        if discounts == "single":
            return y, y, y
        three = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
        return three if all(0 <= d <= i + 1 for i, d in enumerate(three)) else (0.5, 1.0, 1.5)

    def p(self, word, context):
        n = len(context) + 1
        if n not in self.counts:
            return self.p(word, context[1:])
        lower = self.p(word, context[1:]) if context else 1 / self.vocab_size
        after = {gram[-1]: count for gram, count in self.counts[n].items() if gram[:-1] == context}
        total = sum(after.values())
        if not total:
            return lower
        d = self.discounts[n]
        free = sum(d[min(count, 3) - 1] for count in after.values())
        count = after.get(word, 0)
        own = count - d[min(count, 3) - 1] if count else 0
        return own / total + free / total * lower


@pytest.mark.parametrize("discounts", ["modified", "single"])
@pytest.mark.parametrize(("order", "length"), [(1, 50), (2, 300), (3, 300), (4, 120), (5, 4)])
def test_equals_the_formulas(order, length, discounts):
    vocab_size = 12
    train, text = corpus(length, vocab_size) if length > 20 else np.array([3, 1, 3, 1]), corpus(60, vocab_size, seed=1)
    model = fitted(train, vocab_size, order, discounts)
    naive = Naive(train, vocab_size, min(order, length), discounts)
    expected = [
        math.log(naive.p(int(word), tuple(int(i) for i in text[max(0, t - order + 1) : t])))
        for t, word in enumerate(text)
    ]
    np.testing.assert_allclose(model.log_prob(text), expected, rtol=1e-12)


def test_the_discounts_are_estimated_and_differ():
    train = corpus(2000, 40)
    one, three = fitted(train, 40, 3, "single"), fitted(train, 40, 3, "modified")
    counts = np.array([1] * 6 + [2] * 3 + [3] * 2 + [4] + [9])
    y = 6 / 12
    assert one._discounts(counts) == (y, y, y)
    assert three._discounts(counts) == (1 - 2 * y * 3 / 6, 2 - 3 * y * 2 / 3, 3 - 4 * y / 2)
    assert not np.allclose(one.log_prob(train), three.log_prob(train))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_distributions_sum_to_one_and_agree_with_log_prob(order):
    train = corpus(400, 12)
    model = fitted(train, 12, order)
    unseen = np.array([11, 10, 11, 10, 9])
    for context in (train[:0], train[:2], train[50:60], unseen, np.append(unseen, train[7:9])):
        p = model.next_distribution(context)
        assert p.shape == (12,)
        assert p.min() > 0
        assert math.isclose(p.sum(), 1, rel_tol=1e-12)
        for word in range(12):
            assert math.isclose(math.log(p[word]), model.log_prob(np.append(context, word))[-1], rel_tol=1e-9)


def test_an_unseen_context_backs_off_and_an_unseen_word_keeps_some_mass():
    train = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2])
    model = fitted(train, 6, 3)
    np.testing.assert_array_equal(model.next_distribution(np.array([5, 5])), model.next_distribution(np.array([], int)))
    np.testing.assert_array_equal(model.next_distribution(np.array([5, 1])), model.next_distribution(np.array([1])))
    p = model.next_distribution(np.array([0, 1]))
    assert p[2] > p[3] > p[4] == p[5] > 0


def test_steps_equal_log_prob_and_their_state_follows_the_contract():
    train, text = corpus(400, 12), corpus(24, 12, seed=1)
    model = fitted(train, 12, 4)
    rows = torch.from_numpy(np.stack([text[:12], text[12:]]))
    expected = [model.log_prob(row.numpy()) for row in rows]
    state = model.init_state(2, 16)
    logits, state = model.step(rows[:, :5], state, torch.tensor([5, 2]))
    np.testing.assert_allclose(logits[0, :4].gather(1, rows[0, 1:5, None])[:, 0], expected[0][1:5], rtol=1e-5)
    logits, state = model.step(torch.stack([rows[0, 5:8], rows[1, 2:5]]), state)
    np.testing.assert_allclose(logits[1, 0, rows[1, 3]], expected[1][3], rtol=1e-5)
    assert state.lengths.tolist() == [8, 5]
    state = state.truncate(torch.tensor([6, 4])).reorder(torch.tensor([1, 0]))
    logits, _ = model.step(torch.stack([rows[1, 4:5], rows[0, 6:7]]), state)
    np.testing.assert_allclose(logits[1, 0, rows[0, 7]], expected[0][7], rtol=1e-5)
    assert torch.allclose(logits.exp().sum(-1), torch.ones(2, 1))


def test_loads_from_tensors_alone(tmp_path):
    text = corpus(400, 12)
    model = fitted(text, 12, 4)
    torch.save(model.state_dict(), tmp_path / "ngram.pt")
    fresh = NGram(vocab_size=12, order=4, discounts="modified")
    with pytest.raises(InputError, match="counted nothing yet"):
        fresh.log_prob(text)
    fresh.load_state_dict(torch.load(tmp_path / "ngram.pt", weights_only=True))
    np.testing.assert_array_equal(fresh.log_prob(text), model.log_prob(text))


def test_floor_is_near_the_entropy_of_a_markov_chain():
    rng = np.random.default_rng(0)
    transitions = rng.dirichlet(np.full(8, 0.3), size=8)
    ids, at = np.zeros(30_000, dtype=np.int64), 0
    uniform = rng.random(len(ids))
    cumulative = transitions.cumsum(axis=1)
    for i in range(len(ids)):
        at = min(7, int(np.searchsorted(cumulative[at], uniform[i])))
        ids[i] = at
    train, val = ids[:20_000], ids[20_000:]
    entropy = -np.log(transitions[val[:-1], val[1:]]).mean()
    assert entropy < floor(train, val, 8, order=2) < entropy + 0.01


def test_fits_a_large_text_in_seconds():
    ids = corpus(300_000, 8000)
    begin = time.process_time()
    fitted(ids, 8000, 5).log_prob(ids[:100_000])
    assert time.process_time() - begin < 5


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"order \(0\) must be at least 1"):
        NGram(vocab_size=5, order=0, discounts="modified")
    with pytest.raises(InputError, match=r"ids from 0 to 5 do not fit vocab_size \(5\)"):
        fitted(np.array([0, 5]), 5)
    with pytest.raises(InputError, match="at least one token"):
        fitted(np.array([], dtype=np.int64), 5)
