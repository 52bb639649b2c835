from __future__ import annotations

import pytest
from toy import ToyModel, penalties

from llmcli.decoding.mbr import MinimumBayesRisk, likeness, ngrams
from llmcli.decoding.sample import Sample, row_seeds
from llmcli.errors import InputError

PROMPTS = [[1, 2], [3], [4, 5, 6]]


def sampler(temperature=1.0):
    return Sample(temperature=temperature, top_k=None, top_p=None, min_p=None, typical_p=None, penalties=penalties())


def search(prompts, *, samples=8, n_best=1, temperature=1.0, model=None, end_ids=(3,), seed=1, **more):
    strategy = MinimumBayesRisk(samples=samples, n_best=n_best, sampler=sampler(temperature))
    return strategy.search(
        model or ToyModel(), prompts, end_ids=frozenset(end_ids), max_new_tokens=12,
        seeds=[seed] * len(prompts), **more,
    )  # fmt: skip


def drawn(prompts, samples, seed=1):
    """The same samples, taken one after another from the strategy that draws them."""
    rows = [list(prompt) for prompt in prompts for _ in range(samples)]
    texts = [[] for _ in rows]
    seeds = [each for _ in prompts for each in row_seeds(seed, samples)]
    steps = sampler().decode(ToyModel(), rows, end_ids=frozenset([3]), max_new_tokens=12, seeds=seeds)
    for step in steps:
        for text, number in zip(texts, step.ids, strict=True):
            if number is not None:
                text.append(number)
    return [texts[start : start + samples] for start in range(0, len(rows), samples)]


def test_likeness_is_the_mean_f1_of_ngrams():
    one, other = ngrams([1, 2, 3]), ngrams([1, 2, 4])
    assert likeness(one, other) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)  # no run of four in either
    assert likeness(one, one) == 1.0 and likeness(one, ngrams([7])) == 0.0 and likeness(ngrams([]), ngrams([])) == 1.0


def test_gives_the_samples_most_like_all_of_them():
    for hypotheses, texts in zip(search(PROMPTS, n_best=8), drawn(PROMPTS, 8), strict=True):
        mean = {tuple(text): sum(likeness(ngrams(text), ngrams(each)) for each in texts) / 8 for text in texts}
        assert [tuple(each.ids) for each in hypotheses] == sorted(mean, key=lambda text: -mean[text])
        assert [each.score for each in hypotheses] == pytest.approx(sorted(mean.values(), reverse=True))
        assert all(len(each.ids) == len(each.logprobs) for each in hypotheses)


def test_samples_that_agree_are_one_with_the_score_of_all():
    [[only]] = search([[1, 2]], n_best=8, temperature=0)
    assert only.score == 1.0


def test_samples_may_outgrow_the_window_after_others_have_ended():
    together = search(PROMPTS, model=ToyModel(max_seq_len=5), n_best=8)
    assert together == [search([prompt], model=ToyModel(max_seq_len=5), n_best=8)[0] for prompt in PROMPTS]
    lengths = [len(each.ids) for found in together for each in found]
    assert max(lengths) > 5 and min(lengths) < max(lengths)


def test_the_best_is_the_first_of_the_n_best():
    assert [each[0] for each in search(PROMPTS, n_best=5)] == [each[0] for each in search(PROMPTS, n_best=1)]


def test_a_stop_text_ends_a_sample_before_it_is_compared():
    found = search(PROMPTS, n_best=8, stopped=lambda ids: 5 in ids)
    assert all(5 not in each.ids[:-1] for row in found for each in row)
    assert any(each.ids[-1] == 5 for row in found for each in row)


@pytest.mark.parametrize(
    ("samples", "n_best", "message"), [(1, 1, "samples \\(1\\)"), (4, 5, "n_best \\(5\\)"), (4, 0, "n_best")]
)
def test_impossible_sizes_are_refused(samples, n_best, message):
    with pytest.raises(InputError, match=message):
        MinimumBayesRisk(samples=samples, n_best=n_best, sampler=sampler())
