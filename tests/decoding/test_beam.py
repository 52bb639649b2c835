"""Beam search against exhaustive search, greedy decoding, and itself one prompt at a time."""

import itertools
import math

import pytest
from toy import ToyModel, penalties

from llmcli.decoding.base import Search
from llmcli.decoding.beam import Beam
from llmcli.decoding.greedy import Greedy
from llmcli.errors import InputError, LLMError

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1, 2], [3, 3]]
PLAIN = {"beams": 4, "n_best": 1, "length_penalty": "gnmt", "alpha": 1.0, "early_stopping": False}


def beam(**changes):
    return Beam(**{**PLAIN, **changes})


def search(strategy, model, prompts, *, end_ids=(0,), max_new_tokens=8, **more):
    return strategy.search(
        model, prompts, end_ids=frozenset(end_ids), max_new_tokens=max_new_tokens, seeds=range(len(prompts)), **more
    )


class FewTokens(ToyModel):
    """A vocabulary of 128 ids, of which all but the first four are impossible: 3 tokens and the end, 0."""

    def __init__(self, seed=0):
        super().__init__(vocab_size=128, seed=seed)

    def logits(self, context):
        logits = super().logits(context).clone()
        logits[4:] = -math.inf
        return logits


def log_probability(model, prompt, text):
    total, context = 0.0, list(prompt)
    for token in text:
        total += float(model.logits(context).log_softmax(-1)[token])
        context.append(token)
    return total


def penalty(kind, alpha, length):
    return {"gnmt": (5 + length) / 6, "average": length}[kind] ** alpha


def exhaustive(model, prompt, longest, kind, alpha):
    """Every text that ends, best first, then every one that is cut off, best first: (ids, score)."""
    ended = [(*body, 0) for n in range(longest) for body in itertools.product((1, 2, 3), repeat=n)]
    cut_off = list(itertools.product((1, 2, 3), repeat=longest))

    def ranked(texts):
        scored = [
            (list(text), log_probability(model, prompt, text) / penalty(kind, alpha, len(text))) for text in texts
        ]
        return sorted(scored, key=lambda each: -each[1])

    return [*ranked(ended), *ranked(cut_off)]


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize(("kind", "alpha"), [("gnmt", 0.0), ("gnmt", 1.0), ("average", 1.0), ("average", 0.6)])
@pytest.mark.parametrize("seed", [0, 1])
def test_with_a_beam_for_every_text_it_is_exhaustive_search(seed, kind, alpha, early_stopping):
    model = FewTokens(seed)
    strategy = beam(beams=110, n_best=30, length_penalty=kind, alpha=alpha, early_stopping=early_stopping)
    for prompt, found in zip(PROMPTS, search(strategy, model, PROMPTS, max_new_tokens=4), strict=True):
        expected = exhaustive(model, prompt, 4, kind, alpha)[:30]
        assert [each.score for each in found] == pytest.approx([score for _, score in expected], abs=1e-5)
        assert [each.ids for each in found] == [ids for ids, _ in expected]


def test_the_best_of_a_narrow_beam_is_found_exactly_where_nothing_was_pruned():
    model = FewTokens()
    wide = search(beam(beams=9), model, PROMPTS, max_new_tokens=3)  # 9 texts of two tokens live at most
    for prompt, [best] in zip(PROMPTS, wide, strict=True):
        assert best.ids == exhaustive(model, prompt, 3, "gnmt", 1.0)[0][0]


@pytest.mark.parametrize("changes", [{"early_stopping": True}, {"early_stopping": True, "alpha": 2.0}, {"alpha": 0.0}])
def test_one_beam_is_greedy(changes):
    model = ToyModel(vocab_size=6)
    steps = list(
        Greedy(penalties=penalties()).decode(
            model, PROMPTS[:2], end_ids=frozenset([0]), max_new_tokens=12, seeds=[0, 1]
        )
    )
    expected = [[i for i in row if i is not None] for row in zip(*(step.ids for step in steps), strict=True)]
    found = search(beam(beams=1, **changes), model, PROMPTS[:2], max_new_tokens=12)
    assert [best.ids for [best] in found] == expected
    for row, [best] in enumerate(found):
        assert best.logprobs == pytest.approx([step.logprobs[row] for step in steps][: len(best.ids)], abs=1e-5)


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("beams", [1, 2, 5, 11])
def test_together_as_one_by_one(beams, early_stopping):
    model = ToyModel()
    strategy = beam(beams=beams, n_best=beams, early_stopping=early_stopping)
    together = search(strategy, model, PROMPTS, max_new_tokens=9)
    for prompt, found in zip(PROMPTS, together, strict=True):
        [alone] = search(strategy, model, [prompt], max_new_tokens=9)
        assert [each.ids for each in found] == [each.ids for each in alone]
        assert [each.score for each in found] == pytest.approx([each.score for each in alone], abs=1e-5)


def test_scores_and_logprobs_are_those_of_the_model():
    model = ToyModel()
    for prompt, found in zip(PROMPTS, search(beam(n_best=4), model, PROMPTS), strict=True):
        assert len({tuple(each.ids) for each in found}) == len(found) == 4
        for each in found:
            total = log_probability(model, prompt, each.ids)
            assert sum(each.logprobs) == pytest.approx(total, abs=1e-4)
            assert each.score == pytest.approx(total / penalty("gnmt", 1.0, len(each.ids)), abs=1e-4)


def test_a_wider_beam_finds_nothing_worse_without_early_stopping():
    """Not a law of beam search, but of one as wide as the tree, which bounds all others."""
    model = FewTokens(seed=3)
    best = search(beam(beams=110), model, PROMPTS, max_new_tokens=4)
    for beams in (1, 2, 3, 5):
        for [found], [bound] in zip(search(beam(beams=beams), model, PROMPTS, max_new_tokens=4), best, strict=True):
            if found.ids[-1] == 0:
                assert found.score <= bound.score + 1e-6


def test_rows_that_are_done_cost_nothing_more():
    model = ToyModel(vocab_size=6)
    search(beam(beams=2, early_stopping=True), model, PROMPTS[:2], max_new_tokens=30)
    rows = [rows for rows, _ in model.calls]
    assert rows[0] == 2 and rows[1] == 4 and set(rows[2:]) <= {2, 4} and rows == [2, *sorted(rows[1:], reverse=True)]


def test_what_is_cut_off_ranks_behind_what_ended():
    model = FewTokens()
    [found] = search(beam(beams=40, n_best=40), model, [[1, 2]], max_new_tokens=3)
    ended = [each.ids[-1] == 0 for each in found]
    assert ended == sorted(ended, reverse=True) and len(found) == 13 + 27


def test_without_an_end_all_texts_have_the_length_asked_for():
    found = search(beam(n_best=3), ToyModel(), PROMPTS, end_ids=(), max_new_tokens=5)
    assert {len(each.ids) for row in found for each in row} == {5}


def test_options_change_what_is_found():
    model = ToyModel(vocab_size=10)
    short, long = (search(beam(alpha=alpha), model, PROMPTS, max_new_tokens=20) for alpha in (0.0, 5.0))
    lengths = [[len(row[0].ids) for row in found] for found in (short, long)]
    assert sum(lengths[0]) < sum(lengths[1])
    hasty = search(beam(alpha=5.0, early_stopping=True), model, PROMPTS, max_new_tokens=20)
    assert hasty != long
    assert isinstance(beam(), Search) and not isinstance(Greedy(penalties=penalties()), Search)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beams": 0}, r"decoding.beams \(0\) must be at least 1"),
        ({"n_best": 5}, r"decoding.n_best \(5\) must be at least 1 and at most decoding.beams \(4\)"),
        ({"n_best": 0}, r"decoding.n_best \(0\)"),
        ({"length_penalty": "wu"}, r"decoding.length_penalty \(wu\) must be one of gnmt, average"),
        ({"alpha": -0.1}, r"decoding.alpha \(-0.1\) must be at least 0"),
        ({"alpha": math.nan}, r"decoding.alpha \(nan\)"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        beam(**changes)


def test_impossible_requests_are_refused():
    with pytest.raises(InputError, match=r"decoding.beams \(12\) is above the 11 ids of the vocabulary"):
        search(beam(beams=12), ToyModel(), PROMPTS)
    with pytest.raises(InputError, match=r"8 tokens: 6 of the prompt and 8 new ones are more") as caught:
        search(beam(), ToyModel(max_seq_len=8), [list(range(1, 10))], max_new_tokens=8)
    assert caught.value.hint.startswith("max_new_tokens=3 fits")
    assert search(beam(), ToyModel(max_seq_len=8), [list(range(1, 10))], max_new_tokens=3)
    with pytest.raises(InputError, match="prompt 1 is empty"):
        search(beam(), ToyModel(), [[1], []])


def test_logits_that_are_not_finite_stop_the_search():
    model = ToyModel()
    model.tables[:] = float("nan")
    with pytest.raises(LLMError, match="not finite"):
        search(beam(), model, [[1]])
