import math

import pytest
import torch
from toy import ToyModel, penalties

from llmcli.decoding.greedy import Greedy
from llmcli.decoding.sample import Sample, draw, row_seeds, row_uniforms
from llmcli.errors import InputError


def make(*, temperature=1.0, top_k=None, top_p=None, min_p=None, typical_p=None, repetition=1.0):
    return Sample(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        penalties=penalties(repetition),
    )


def decode(strategy, model, prompts, *, max_new_tokens, seed=0, end_ids=()):
    steps = strategy.decode(
        model,
        prompts,
        end_ids=frozenset(end_ids),
        max_new_tokens=max_new_tokens,
        seeds=row_seeds(seed, len(prompts)),
    )
    return [list(row) for row in zip(*(step.ids for step in steps), strict=True)]


def brute_force(logits, temperature, top_k, top_p, min_p):
    """The kept set of one row of distinct logits, by the definitions."""
    ranked = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k is not None:
        ranked = ranked[:top_k]

    def probabilities():
        weights = [math.exp(logits[i] / temperature) for i in ranked]
        return [w / sum(weights) for w in weights]

    if top_p is not None:
        total, kept = 0.0, 0
        for p in probabilities():
            kept += 1
            total += p
            if total >= top_p:
                break
        ranked = ranked[:kept]
    if min_p is not None:
        p = probabilities()
        ranked = [i for i, value in zip(ranked, p, strict=True) if value >= min_p * p[0]]
    return set(ranked)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 1, 5, 1000])
@pytest.mark.parametrize("top_p", [None, 0.01, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("min_p", [None, 0.0, 0.05, 1.0])
def test_filters_keep_exactly_the_sets_of_their_definitions(temperature, top_k, top_p, min_p):
    logits = 2 * torch.randn(16, 30, generator=torch.Generator().manual_seed(3))
    strategy = make(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    filtered = strategy.filter(logits)
    for row, kept in zip(logits.tolist(), filtered, strict=True):
        expected = brute_force(row, temperature, top_k, top_p, min_p)
        assert set(kept.isfinite().nonzero()[:, 0].tolist()) == expected
    # What is kept keeps its proportions.
    kept = filtered.isfinite()
    expected = (logits / temperature).masked_fill(~kept, -math.inf).softmax(-1)
    torch.testing.assert_close(filtered.softmax(-1), expected)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.1, 3.0])  # a nucleus of most of a large vocabulary, and one of a few tokens
def test_the_nucleus_of_a_large_vocabulary_is_exact(top_p, spread):
    logits = spread * torch.randn(4, 9000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    filtered = make(top_p=top_p).filter(logits)
    for row, kept in zip(logits.tolist(), filtered, strict=True):
        assert set(kept.isfinite().nonzero()[:, 0].tolist()) == brute_force(row, 1.0, None, top_p, None)


def test_ties_with_the_kth_logit_stay():
    kept = make(top_k=2).filter(torch.tensor([[3.0, 1.0, 1.0, 0.0]])).isfinite()
    assert kept.tolist() == [[True, True, True, False]]


def test_a_tiny_temperature_does_not_overflow():
    logits = make(temperature=1e-30).filter(torch.tensor([[1e4, 1e4 - 1, -1e4]]))
    assert logits.softmax(-1).tolist() == [[1.0, 0.0, 0.0]]


def test_frequencies_follow_the_filtered_softmax():
    model = ToyModel()
    strategy = make(temperature=2.0, top_p=0.95)
    count = 20_000
    samples = torch.tensor(decode(strategy, model, [[1, 2]] * count, max_new_tokens=1)).flatten()
    observed = samples.bincount(minlength=model.vocab_size).double()
    expected = strategy.filter(model.logits([1, 2])[None])[0].softmax(-1).double() * count
    assert observed[expected == 0].sum() == 0
    live = expected > 0
    assert live.sum() > 3
    chi_square = ((observed - expected)[live] ** 2 / expected[live]).sum()
    # 99.99 % of chi-square with 10 degrees of freedom lies below 35.6
    assert chi_square < 35.6


def test_draw_never_picks_what_was_cut():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    just_below_one = torch.tensor([1 - 2**-24])
    assert draw(logits, torch.tensor([0.0])).tolist() == [1]
    assert draw(logits, just_below_one).tolist() == [3]
    logits = torch.full((1, 50_000), -math.inf)
    logits[0, 7:40_000] = torch.randn(39_993, generator=torch.Generator().manual_seed(0))
    assert 7 <= int(draw(logits, just_below_one)) < 40_000
    assert int(draw(logits, torch.tensor([0.0]))) == 7


def test_temperature_zero_is_greedy():
    model = ToyModel(max_seq_len=16)
    prompts = [[1, 2], [3], [4, 5, 6]]
    greedy = decode(Greedy(penalties=penalties(1.3)), model, prompts, max_new_tokens=40)
    sampled = decode(make(temperature=0, repetition=1.3), model, prompts, max_new_tokens=40)
    assert sampled == greedy


def test_top_k_one_is_greedy():
    model = ToyModel()
    greedy = decode(Greedy(penalties=penalties()), model, [[1, 2]], max_new_tokens=40)
    assert decode(make(top_k=1), model, [[1, 2]], max_new_tokens=40) == greedy


def test_a_seed_repeats_itself_and_another_differs():
    model = ToyModel()
    first = decode(make(), model, [[1]], max_new_tokens=300, seed=5)
    assert decode(make(), model, [[1]], max_new_tokens=300, seed=5) == first
    assert decode(make(), model, [[1]], max_new_tokens=300, seed=6) != first
    assert decode(make(), model, [[1]], max_new_tokens=20, seed=5)[0] == first[0][:20]


@pytest.mark.parametrize("window", [None, 12])
def test_a_row_does_not_depend_on_the_rows_beside_it(window):
    model = ToyModel(max_seq_len=window)
    prompts = [[1, 2], [3] * 9, [4, 5, 6], [7, 8]]
    together = decode(make(), model, prompts, max_new_tokens=60)
    assert decode(make(), model, prompts[:1], max_new_tokens=60) == together[:1]
    assert decode(make(), model, prompts[:3], max_new_tokens=60) == together[:3]
    other = [prompts[0], [9], [9, 9, 9, 9], prompts[3]]
    changed = decode(make(), model, other, max_new_tokens=60)
    assert changed[0] == together[0]
    assert changed[3] == together[3]
    ending = decode(make(), model, prompts, max_new_tokens=60, end_ids=[together[1][0]])
    alone = decode(make(), model, prompts[:1], max_new_tokens=60, end_ids=[together[1][0]])
    assert [i for i in ending[0] if i is not None] == alone[0]


def test_rows_with_the_same_prompt_differ():
    samples = decode(make(), ToyModel(), [[1, 2]] * 8, max_new_tokens=20)
    assert len({tuple(row) for row in samples}) == 8


def test_streams_do_not_depend_on_how_many_there_are():
    device = torch.device("cpu")
    many = row_uniforms(row_seeds(1, 20), device)
    few = row_uniforms(row_seeds(1, 2), device)
    for _ in range(600):
        numbers = next(many)
        assert torch.equal(numbers[:2], next(few))
        assert float(numbers.min()) >= 0 and float(numbers.max()) < 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, r"temperature \(-0.1\) must be at least 0"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, r"top_k \(0\) must be at least 1"),
        ({"top_p": 0.0}, r"top_p \(0.0\) must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": -1.0}, r"min_p \(-1.0\) must be between 0 and 1"),
        ({"typical_p": 0.0}, r"typical_p \(0.0\) must be above 0 and at most 1"),
    ],
)
def test_values_outside_their_range_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        make(**values)


def test_typical_keeps_what_is_nearest_to_the_entropy():
    probs = torch.tensor([[0.6, 0.2, 0.1, 0.06, 0.04], [0.2, 0.2, 0.2, 0.2, 0.2]])
    kept = make(typical_p=0.5).filter(probs.log()).isfinite()
    entropy = float(-(probs[0] * probs[0].log()).sum())  # 1.17 nats
    near = sorted(range(5), key=lambda i: abs(-math.log(probs[0, i]) - entropy))
    assert near[:2] == [1, 0]  # 0.2 is the most typical, and is not enough alone
    assert kept.tolist() == [[True, True, False, False, False], [True, True, True, False, False]]
    assert make(typical_p=0.1).filter(probs.log()).isfinite()[0].tolist() == [False, True, False, False, False]
