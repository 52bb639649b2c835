"""Prompt look-up: the texts of decoding=sample, in fewer steps of the model."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import ToyModel

from llmcli.decoding.constrained import Constraint
from llmcli.decoding.generate import generate
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.lookup import Continuations, Lookup
from llmcli.decoding.penalties import Penalties
from llmcli.decoding.sample import Sample, Uniforms, row_seeds, row_uniforms
from llmcli.errors import InputError
from llmcli.tokenizers.char import CharTokenizer

CHARS = CharTokenizer("abcd ")
OFF = {"repetition": 1.0, "frequency": 0.0, "presence": 0.0, "no_repeat_ngram": 0}


def values(temperature=1.0, *, top_k=None, top_p=None, min_p=None, typical_p=None, **penalties):
    return {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "penalties": Penalties(**{**OFF, **penalties}),
    }


def lookup(*, draft_tokens=4, ngram=1, **sampler):
    return Lookup(draft_tokens=draft_tokens, ngram=ngram, **values(**sampler))


def decode(strategy, model, prompts, *, max_new_tokens, seed=0, end_ids=()):
    """The ids of each row, their log-probabilities, and the steps that they took."""
    steps = strategy.decode(
        model,
        prompts,
        end_ids=frozenset(end_ids),
        max_new_tokens=max_new_tokens,
        seeds=row_seeds(seed, len(prompts)),
    )
    rows = [([], [], []) for _ in prompts]
    for emitted in steps:
        for row, number, value in zip(rows, emitted.ids, emitted.logprobs, strict=True):
            if number is not None:
                for kept, each in zip(row, (number, value, emitted.steps), strict=True):
                    kept.append(each)
    return [(ids, logprobs, sum(taken)) for ids, logprobs, taken in rows]


def ids_of(rows):
    return [ids for ids, _, _ in rows]


PROMPTS = [[1, 2, 1, 2, 1], [3], [0, 1, 2, 0, 1, 2, 0], [3, 3]]


@pytest.mark.parametrize("sampler", [
    {"temperature": 0.0}, {}, {"temperature": 0.3, "top_p": 0.9}, {"top_k": 2, "min_p": 0.1}, {"typical_p": 0.8},
    {"temperature": 0.0, "repetition": 1.5}, {"frequency": 0.4, "presence": 0.3}, {"no_repeat_ngram": 3},
])  # fmt: skip
@pytest.mark.parametrize("window", [None, 9])
def test_the_text_is_that_of_sampling(sampler, window):
    model = ToyModel(5, window, seed=2)
    expected = decode(Sample(**values(**sampler)), model, PROMPTS, max_new_tokens=40, end_ids=[4])
    found = decode(lookup(**sampler), model, PROMPTS, max_new_tokens=40, end_ids=[4])
    assert ids_of(found) == ids_of(expected)
    for (_, ours, steps), (ids, theirs, _) in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
        assert steps <= len(ids)
    assert sum(steps for _, _, steps in found) < sum(map(len, ids_of(found)))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 1000),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.sampled_from([None, 1, 2, 5, 8]),
    st.integers(1, 25),
)
def test_the_text_is_that_of_sampling_whatever_is_guessed(
    seed, prompts, draft_tokens, ngram, temperature, window, max_new_tokens
):
    model = ToyModel(4, window, seed=seed)
    strategy = lookup(draft_tokens=draft_tokens, ngram=ngram, temperature=temperature)
    settings = {"max_new_tokens": max_new_tokens, "seed": seed, "end_ids": [2]}
    expected = decode(Sample(**values(temperature)), model, prompts, **settings)
    assert ids_of(decode(strategy, model, prompts, **settings)) == ids_of(expected)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    model = ToyModel(4, 12)
    strategy = lookup(temperature=0.4)
    together = decode(strategy, model, PROMPTS, max_new_tokens=40, end_ids=[2])
    assert decode(strategy, model, PROMPTS[:1], max_new_tokens=40, end_ids=[2])[0][0] == together[0][0]
    assert [steps for _, _, steps in decode(strategy, model, PROMPTS[:3], max_new_tokens=40, end_ids=[2])] == [
        steps for _, _, steps in together[:3]
    ]


class Round(ToyModel):
    """Goes round in a circle of five tokens."""

    def logits(self, context):
        return torch.nn.functional.one_hot(torch.tensor((context[-1] + 1) % 5), self.vocab_size) * 50.0


def test_what_repeats_itself_takes_one_step_for_all_that_is_guessed():
    model = Round(8)
    [(ids, _, steps)] = decode(lookup(ngram=2, temperature=0.0), model, [[0, 1, 2, 3, 4, 0, 1]], max_new_tokens=21)
    assert ids == [(2 + place) % 5 for place in range(21)]
    assert steps == 5  # the prompt's, and four of five tokens each
    assert model.calls == [(1, 7), *[(1, 5)] * 4]


def test_no_guess_reaches_beyond_the_end():
    model = Round(8)
    [(ids, _, steps)] = decode(lookup(temperature=0.0), model, [[0, 1, 2, 3, 4, 0, 1]], max_new_tokens=3)
    assert len(ids) == 3 and steps == 2 and model.calls == [(1, 7), (1, 2)]


def test_the_place_where_the_run_stood_last_is_followed():
    texts = [[1, 2, 7, 1, 2, 8, 9, 1, 2], [5, 6, 5], [4, 4, 4], [1, 2, 3]]
    assert Continuations(4, 2, 3).propose(texts[:1] * 4, [9, 2, 1, 0]).ids == [[8, 9, 1], [8, 9], [8], []]
    assert Continuations(4, 1, 4).propose(texts, [4] * 4).ids == [[8, 9, 1, 2], [6, 5, 6, 5], [4] * 4, []]
    assert Continuations(4, 3, 4).propose(texts, [4] * 4).ids == [[], [], [], []]
    rows = Continuations(4, 1, 4)
    rows.propose([text[:-1] for text in texts], [4] * 4)
    rows.keep([1, 3])
    assert rows.propose([texts[1], [*texts[3], 1]], [4, 4]).ids == [[6, 5, 6, 5], [2, 3, 1, 2]]


def test_numbers_are_those_of_the_streams_from_any_place():
    seeds = row_seeds(4, 3)
    stream = row_uniforms(seeds, torch.device("cpu"))
    numbers = torch.stack([next(stream) for _ in range(600)], dim=1)  # (3, 600)
    places = Uniforms(seeds, torch.device("cpu"))
    found = places.at([2, 0], [590, 3], 7)
    assert torch.equal(found, torch.stack((numbers[2, 590:597], numbers[0, 3:10])))


# -- texts -----------------------------------------------------------------------------------------------------------


class Letters(ToyModel):
    """Never ends a text."""

    def logits(self, context):
        return super().logits(context).index_fill(0, torch.arange(16), -9.0)


def run(strategy, model=None, prompts=("abcabcabc", "a dad a dad"), **settings):
    model = model or Letters(CHARS.vocab_size, 16, seed=5)
    return generate(model, CHARS, list(prompts), strategy=strategy, **{"max_new_tokens": 30, "seed": 3, **settings})


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_stop_texts_samples_and_streams_are_as_ever(temperature):
    sample = run(Sample(**values(temperature)), num_samples=2)
    stop = [sample[0].text[4:6], "never"]
    shown: dict[int, str] = {}
    found = run(
        lookup(temperature=temperature),
        stop=stop,
        num_samples=2,
        on_text=lambda row, text: shown.update({row: shown.get(row, "") + text}),
    )
    expected = run(Sample(**values(temperature)), stop=stop, num_samples=2)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.text, ours.ids, ours.finish_reason) == (theirs.text, theirs.ids, theirs.finish_reason)
        assert ours.steps <= theirs.steps == len(theirs.ids)
    assert found[0].finish_reason == "stop"
    assert [shown.get(row, "") for row in range(4)] == [each.text for each in found]


def test_a_rule_for_the_text_is_refused():
    with pytest.raises(InputError, match="kept to token by token") as caught:
        run(lookup(), constraint=Constraint(CHARS, banned=["b"]))
    assert caught.value.hint == "decoding=sample or greedy"


@pytest.mark.parametrize(("key", "message"), [
    ("draft_tokens", r"decoding.draft_tokens \(0\) must be at least 1"), ("ngram", r"decoding.ngram \(0\) must be"),
])  # fmt: skip
def test_values_outside_their_range_are_refused(key, message):
    with pytest.raises(InputError, match=message):
        lookup(**{key: 0})


def test_the_command_says_what_it_was_worth(llm, trained):
    asked = ["generate", f"ckpt={trained}", "accelerator=cpu", "max_new_tokens=60", "--json"]
    asked += ["--prompt", "the cat sees"]
    plain, guessed = llm(*asked, "decoding=greedy"), llm(*asked, "decoding=lookup", "decoding.temperature=0")
    assert plain.code == guessed.code == 0
    one, other = json.loads(plain.out), json.loads(guessed.out)
    assert one["results"][0]["ids"] == other["results"][0]["ids"] and "tokens_per_step" not in one
    assert other["tokens_per_step"] > 1
    assert f"{other['tokens_per_step']:.1f} tokens per step of the model" in guessed.err


def test_greedy_is_what_temperature_zero_does():
    model = ToyModel(5, 11, seed=3)
    expected = decode(Greedy(penalties=Penalties(**OFF)), model, PROMPTS, max_new_tokens=30)
    assert ids_of(decode(lookup(temperature=0), model, PROMPTS, max_new_tokens=30)) == ids_of(expected)
