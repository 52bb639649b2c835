"""What decoded texts are scored with: all figures of sums by example, each field's where it means something."""

from __future__ import annotations

import pytest
import torch
from test_translation import CHINESE, ENGLISH, GUESSED, GUESSED_ZH

from llmcli.errors import InputError
from llmcli.metrics.bootstrap import differences, intervals
from llmcli.metrics.decoded import GROUPS, TextScorer, evenly
from llmcli.metrics.overlap import rouge


def scored(texts, references):
    scorer = TextScorer(references)
    each = scorer.each(texts)
    return scorer, each, scorer.figures(texts, each)


def test_every_figure_has_its_place():
    _, _, found = scored(GUESSED, ENGLISH)
    assert list(found) == [name for names in GROUPS.values() for name in names]
    assert found["exact"] == 0 and found["length_ratio"] == pytest.approx(20 / 21)
    for name in ("rouge1", "rouge2", "rougeL"):
        mean = sum(rouge(*pair)[name].f1 for pair in zip(GUESSED, ENGLISH, strict=True)) / 2
        assert found[name] == pytest.approx(100 * mean)
    assert found["distinct_1"] == pytest.approx(18 / 20)  # tokens with their case: "the" and "." stand twice
    assert 0 < found["self_bleu"] < found["bleu"]


def test_rouge_of_chinese_is_by_character_and_of_what_it_cannot_read_there_is_none():
    _, _, found = scored(GUESSED_ZH, CHINESE)
    assert found["rouge1"] == pytest.approx(100 * (2 * 6 / 14 + 2 * 7 / 16) / 2)  # shared, of both texts' characters
    _, _, found = scored(["Кошка спит."], ["Кошка сидит."])
    assert "rouge1" not in found and found["chrf"] > 0 and found["distinct_1"] == 1
    assert "rouge1" in scored(["12 34"], ["12 35"])[2]


def test_figures_of_examples_have_intervals():
    texts, references = GUESSED * 20, ENGLISH * 20
    scorer, each, found = scored(texts, references)
    assert all(len(value) == 40 for value in each.values())
    bounds = intervals(scorer.metrics, each, resamples=200)
    assert set(bounds) == set(found) - {"distinct_1", "distinct_2", "self_bleu"}
    for name, (low, high) in bounds.items():
        assert low <= found[name] <= high


def test_two_systems_are_told_apart():
    references = ENGLISH * 20
    scorer = TextScorer(references)
    worse = [text if number % 2 else "nothing of it" for number, text in enumerate(GUESSED * 20)]
    apart = differences(scorer.metrics, scorer.each(GUESSED * 20), scorer.each(worse), resamples=199)
    assert apart["bleu"].low > 0 and apart["bleu"].p == pytest.approx(2 / 200)
    assert apart["ter"].high < 0
    assert apart["exact"].measured == 0 and apart["exact"].p == 1


def test_single_texts_have_scores_of_their_own():
    scorer, each, _ = scored([*GUESSED, "A cat sleeps."], [*ENGLISH, "A cat sleeps."])
    found = scorer.sentences(each)
    assert set(found) == {"bleu", "chrf", "rougeL"}
    assert [values[2] for values in found.values()] == pytest.approx([100, 100, 100])
    assert found["rougeL"][0] == pytest.approx(100 * rouge(GUESSED[0], ENGLISH[0])["rougeL"].f1)


def test_some_of_many_are_far_apart():
    assert evenly(3, 500) == [0, 1, 2] and evenly(10, 5) == [0, 2, 4, 6, 8] and evenly(0, 5) == []


def test_no_references_is_refused():
    with pytest.raises(InputError, match="no references"):
        TextScorer([])


def test_sums_of_parts_are_those_of_the_whole():
    scorer = TextScorer(ENGLISH)
    whole = scorer.each(GUESSED)
    for number in range(2):
        part = TextScorer(ENGLISH[number : number + 1]).each(GUESSED[number : number + 1])
        for name, value in part.items():
            torch.testing.assert_close(value[0], whole[name][number], check_dtype=False)
