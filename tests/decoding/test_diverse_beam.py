"""Diverse beam search against its definition, and beam search where both are the same."""

from __future__ import annotations

import pytest
from toy import ToyModel, penalties

from llmcli.decoding.beam import Beam
from llmcli.decoding.diverse_beam import DiverseBeam
from llmcli.errors import InputError

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8]]
SHARED = {"length_penalty": "gnmt", "alpha": 1.0, "early_stopping": True}


def diverse(*, beams=6, n_best=6, groups=3, diversity=0.8):
    return DiverseBeam(
        beams=beams, n_best=n_best, groups=groups, diversity=diversity, coverage=0.0, penalties=penalties(), **SHARED
    )


def search(strategy, prompts, model=None, **more):
    settings = {"end_ids": frozenset([0]), "max_new_tokens": 7, "seeds": [0] * len(prompts)}
    return strategy.search(model or ToyModel(), prompts, **{**settings, **more})


def by_definition(model, prompt, *, groups, width, diversity, longest):
    """One prompt without ends: groups of (ids, log-probability), each step in turns."""
    beams = [[([], 0.0)] for _ in range(groups)]
    for _ in range(longest):
        taken: list[int] = []
        for group in range(groups):
            found = []
            for ids, total in beams[group]:
                logprobs = model.logits([*prompt, *ids]).log_softmax(-1).tolist()
                for token, logprob in enumerate(logprobs):
                    rank = total + logprob - diversity * taken.count(token)
                    found.append((rank, [*ids, token], total + logprob))
            found.sort(key=lambda each: -each[0])
            beams[group] = [(ids, total) for _, ids, total in found[:width]]
            taken += [ids[-1] for ids, _ in beams[group]]
    return beams


@pytest.mark.parametrize(("groups", "diversity"), [(3, 0.8), (2, 0.3), (6, 2.0)])
def test_it_is_what_its_definition_says(groups, diversity):
    model = ToyModel()
    found = search(diverse(groups=groups, diversity=diversity), PROMPTS, end_ids=frozenset(), max_new_tokens=5)
    for prompt, row in zip(PROMPTS, found, strict=True):
        beams = by_definition(model, prompt, groups=groups, width=6 // groups, diversity=diversity, longest=5)
        expected = {tuple(ids): total / (10 / 6) for group in beams for ids, total in group}
        assert {tuple(each.ids) for each in row} == set(expected)
        assert [each.score for each in row] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-4)


def test_one_group_is_beam_search():
    plain = Beam(beams=4, n_best=4, **SHARED)
    assert search(diverse(beams=4, n_best=4, groups=1), PROMPTS) == search(plain, PROMPTS)


def test_without_diversity_every_group_finds_the_same_once():
    narrow = Beam(beams=2, n_best=2, **SHARED)
    found = search(diverse(diversity=0.0, n_best=2), PROMPTS)
    assert [[each.ids for each in row] for row in found] == [
        [each.ids for each in row] for row in search(narrow, PROMPTS)
    ]


def test_with_it_texts_differ_from_their_first_token():
    found = search(diverse(beams=4, n_best=4, groups=4, diversity=50.0), PROMPTS, end_ids=frozenset())
    assert all(len({each.ids[0] for each in row}) == 4 for row in found)


def test_together_as_one_by_one():
    together = search(diverse(), PROMPTS)
    for prompt, row in zip(PROMPTS, together, strict=True):
        [alone] = search(diverse(), [prompt])
        assert [each.ids for each in row] == [each.ids for each in alone]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 4}, r"decoding.groups \(4\) must be at least 1 and divide decoding.beams \(6\)"),
        ({"groups": 0}, r"decoding.groups \(0\)"),
        ({"diversity": -1.0}, r"decoding.diversity \(-1.0\) must be at least 0"),
        ({"n_best": 7}, r"decoding.n_best \(7\)"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        diverse(**changes)
