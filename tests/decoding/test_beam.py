"""Beam search against exhaustive search, greedy decoding, and itself one prompt at a time."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import ToyModel, penalties

from llmcli.decoding.base import Search
from llmcli.decoding.beam import Beam
from llmcli.decoding.candidates import top
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError, LLMError

LOW = [[1, 2, 3], [4], [5, 1, 2, 5, 4], [3, 3]]
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


class Ruled(ToyModel):
    """Allows of the first seven tokens odd ones after an even number of tokens, even ones after an odd number."""

    def allowed(self, context):
        numbers = torch.arange(self.vocab_size)
        return (numbers < 7) & (numbers % 2 != len(context) % 2)

    def step(self, ids, state, lengths=None, *, last_only=False):
        out = super().step(ids, state, lengths, last_only=last_only)
        return replace(out, allowed=torch.stack([self.allowed(row) for row in out.state.rows]))


def test_a_rule_changes_no_log_probability():
    """So the best of what is allowed is found, in a row and between rows: nothing becomes likelier by being alone."""
    model = Ruled(vocab_size=40)
    for prompt, found in zip(LOW, search(beam(beams=40, n_best=9), model, LOW, max_new_tokens=3), strict=True):
        for each in found:
            context = list(prompt)
            for token in each.ids:
                assert model.allowed(context)[token]
                context.append(token)
            assert sum(each.logprobs) == pytest.approx(log_probability(model, prompt, each.ids), abs=1e-4)
        texts = [list(text) for n in (1, 2, 3) for text in itertools.product(range(7), repeat=n)]
        texts = [text for text in texts if 0 not in text[:-1] and (text[-1] == 0 or len(text) == 3)]
        kept = [t for t in texts if all(model.allowed([*prompt, *t[:i]])[token] for i, token in enumerate(t))]
        scores = [log_probability(model, prompt, text) / penalty("gnmt", 1.0, len(text)) for text in kept]
        ended = [score for score, text in zip(scores, kept, strict=True) if text[-1] == 0]
        cut_off = [score for score, text in zip(scores, kept, strict=True) if text[-1] != 0]
        expected = [*sorted(ended, reverse=True), *sorted(cut_off, reverse=True)][:9]
        assert [each.score for each in found] == pytest.approx(expected, abs=1e-4)


def test_a_stop_text_ends_a_hypothesis_before_it_is_ranked():
    model = ToyModel()
    stopped = search(beam(n_best=3), model, PROMPTS, stopped=lambda ids: 7 in ids)
    ended = search(beam(n_best=3), model, PROMPTS, end_ids=(0, 7))
    assert [[each.ids for each in row] for row in stopped] == [[each.ids for each in row] for row in ended]
    assert any(each.ids[-1] == 7 for row in stopped for each in row)
    assert all(7 not in each.ids[:-1] for row in stopped for each in row)


HELD = [
    {"repetition": 1.5, "frequency": 0.0, "presence": 0.0, "no_repeat_ngram": 0},
    {"repetition": 1.0, "frequency": 0.7, "presence": 0.5, "no_repeat_ngram": 0},
    {"repetition": 1.0, "frequency": 0.0, "presence": 0.0, "no_repeat_ngram": 2},
    {"repetition": 1.2, "frequency": 0.3, "presence": 0.0, "no_repeat_ngram": 1},
]


@pytest.mark.parametrize("held", HELD)
def test_one_beam_with_penalties_is_greedy_with_them(held):
    model, held = ToyModel(), Penalties(**held)
    steps = list(Greedy(penalties=held).decode(model, PROMPTS, end_ids=frozenset([0]), max_new_tokens=9, seeds=[0] * 4))
    expected = [[i for i in row if i is not None] for row in zip(*(step.ids for step in steps), strict=True)]
    found = search(beam(beams=1, penalties=held), model, PROMPTS, max_new_tokens=9)
    assert [best.ids for [best] in found] == expected
    for row, [best] in enumerate(found):
        assert best.logprobs == pytest.approx([step.logprobs[row] for step in steps][: len(best.ids)], abs=1e-5)


def test_penalties_go_with_their_beams():
    model = ToyModel(vocab_size=6)
    strategy = beam(n_best=4, penalties=Penalties(**HELD[2]))
    together = search(strategy, model, LOW, max_new_tokens=12)
    for prompt, found in zip(LOW, together, strict=True):
        for each in found:
            text = [*prompt, *each.ids]
            pairs = list(itertools.pairwise(text))
            assert all(pair not in pairs[:place] for place, pair in enumerate(pairs) if place >= len(prompt) - 1)
        assert [each.ids for each in found] == [
            each.ids for each in search(strategy, model, [prompt], max_new_tokens=12)[0]
        ]


class Looking(ToyModel):
    """Attends to 4 source tokens, the last of them padding in the first row; how is a function of the last token."""

    def looks(self, token):
        return (torch.tensor([1.0, 2.0, 3.0]) * (token + 1)).sin().softmax(0)

    def step(self, ids, state, lengths=None, *, last_only=False):
        out = super().step(ids, state, lengths, last_only=last_only)
        weights = torch.stack([torch.cat((self.looks(row[-1]), torch.zeros(1))) for row in out.state.rows])
        return replace(out, attention=weights[:, None, None].expand(-1, 2, -1, -1))


def test_coverage_adds_what_was_not_looked_at():
    model = Looking(vocab_size=6)
    found = search(beam(beams=5, n_best=5, coverage=0.4), model, LOW, max_new_tokens=5)
    for prompt, row in zip(LOW, found, strict=True):
        for each in row:
            covered = sum(model.looks(token) for token in [prompt[-1], *each.ids[:-1]])
            expected = log_probability(model, prompt, each.ids) / penalty("gnmt", 1.0, len(each.ids))
            assert each.score == pytest.approx(expected + 0.4 * float(covered.clamp(max=1).log().sum()), abs=1e-4)
        ended = [each.score for each in row if each.ids[-1] == 0]
        assert ended == sorted(ended, reverse=True)
    assert beam(coverage=0.1).looks_at_sources and not beam().looks_at_sources
    with pytest.raises(InputError, match=r"decoding\.coverage is for models that look at a source"):
        search(beam(coverage=0.1), ToyModel(), LOW)


@given(
    st.integers(1, 6), st.integers(1, 500), st.lists(st.integers(-3, 3), min_size=1, max_size=500), st.integers(0, 9)
)
@settings(deadline=None)
def test_the_largest_of_a_large_vocabulary(k, n_ids, values, infinite):
    scores = torch.tensor([(values * n_ids)[:n_ids], list(reversed((values * n_ids)[:n_ids]))], dtype=torch.float32)
    scores[:, : min(infinite, n_ids)] = -math.inf
    k = min(k, n_ids)
    found, places = top(scores, k)
    assert torch.equal(found, scores.topk(k, dim=1).values) and torch.equal(scores.gather(1, places), found)
    assert all(len(set(row)) == k for row in places.tolist())


@pytest.mark.parametrize("how", [{"frequency": -2.0}, {"presence": -3.0}, {"repetition": 0.3}])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_tokens_become_likelier_the_search_goes_on_to_its_end(seed, how):
    settings = {"repetition": 1.0, "frequency": 0.0, "presence": 0.0, "no_repeat_ngram": 0, **how}
    model, held = FewTokens(seed), Penalties(**settings)

    def score(text):
        rows, total = held.begin([[4]], 128, model.device, end_ids=frozenset([0])), 0.0
        for place, token in enumerate(text):
            logits = model.logits([4, *text[:place]])[None]
            total += float(rows.adjust(logits)[0, token] - logits.logsumexp(1))
            rows.add([token])
        return total / penalty("gnmt", 1.0, len(text))

    texts = [(*body, 0) for n in range(4) for body in itertools.product((1, 2, 3), repeat=n)]
    [[best]] = search(beam(beams=110, penalties=held), model, [[4]], max_new_tokens=4)
    assert best.score == pytest.approx(max(map(score, texts)), abs=1e-4)
