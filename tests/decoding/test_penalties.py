from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError

CPU = torch.device("cpu")


def rows(prompts, vocab_size=6, *, repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=0):
    penalties = Penalties(
        repetition=repetition, frequency=frequency, presence=presence, no_repeat_ngram=no_repeat_ngram
    )
    return penalties.begin(prompts, vocab_size, CPU)


def test_repetition_counts_prompt_and_text():
    held = rows([[1], [2]], 4, repetition=2.0)
    held.add([3, 2])
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, 1.0, -1.0, -1.0]])
    assert held.adjust(logits).tolist() == [[1.0, 0.5, -1.0, -2.0], [1.0, 1.0, -2.0, -1.0]]


def test_frequency_and_presence_count_the_text_alone():
    held = rows([[0]], 3, frequency=0.5, presence=1.0)
    for number in (1, 1, 2):
        held.add([number])
    assert held.adjust(torch.zeros(1, 3)).tolist() == [[0.0, -2.0, -1.5]]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 4))
def test_no_run_comes_twice(tokens, n):
    held = rows([tokens[:3]], 3, no_repeat_ngram=n)
    for number in tokens[3:]:
        held.add([number])
    allowed = torch.isfinite(held.adjust(torch.zeros(1, 3)))[0].tolist()
    runs = {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}
    tail = tokens[len(tokens) - n + 1 :] if n > 1 else []
    fresh = [(*tail, each) not in runs or len(tail) < n - 1 for each in range(3)]
    assert allowed == (fresh if any(fresh) else [True] * 3)  # unless nothing else is possible


def test_reordered_rows_are_independent():
    held = rows([[1, 2, 1], [3, 4, 3]], 6, no_repeat_ngram=2, frequency=1.0)
    twice = held.reorder([1, 1, 0])
    twice.add([4, 5, 5])
    first = held.adjust(torch.zeros(2, 6))
    assert first[0, 2] == first[1, 4] == -math.inf and torch.isfinite(first).sum() == 10
    later = twice.adjust(torch.zeros(3, 6))
    assert later[0, 3] == -math.inf and later[1, 5] == -1.0 and torch.isfinite(later[1]).all()


def test_the_end_of_a_text_in_the_prompt_is_no_repetition():
    penalties = Penalties(repetition=2.0, frequency=0.0, presence=0.0, no_repeat_ngram=0)
    held = penalties.begin([[3], [3, 1]], 4, CPU, end_ids=frozenset([3]))
    assert held.adjust(torch.ones(2, 4)).tolist() == [[1.0] * 4, [1.0, 0.5, 1.0, 1.0]]


def test_nothing_asked_for_costs_nothing():
    assert rows([[1]]) is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("repetition", 0.0, r"penalties.repetition \(0.0\) must be above 0"),
        ("repetition", -1.0, "must be above 0"),
        ("repetition", math.inf, "must be above 0"),
        ("repetition", math.nan, "must be above 0"),
        ("frequency", math.inf, r"penalties.frequency \(inf\) must be a finite number"),
        ("no_repeat_ngram", -1, r"penalties.no_repeat_ngram \(-1\) must be at least 0"),
    ],
)
def test_impossible_values_are_refused(name, value, message):
    with pytest.raises(InputError, match=message):
        rows([[1]], **{name: value})
