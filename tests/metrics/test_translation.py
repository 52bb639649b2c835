"""BLEU, chrF and TER: those of sacrebleu with the tokenizer that the language needs, and its bootstrap."""

import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER

from llmcli.errors import InputError
from llmcli.metrics.bootstrap import figures_of, intervals
from llmcli.metrics.texts import self_bleu
from llmcli.metrics.translation import Bleu, ChrF, Sacrebleu, Ter, tokenizer_for, translation_metrics

ENGLISH = ["The old house stands on the hill.", "A cat sleeps in the warm sun, and nobody wakes it."]
GUESSED = ["the old house stands on a hill.", "A cat is sleeping in the sun and nobody wakes it."]
CHINESE = ["我今天去学校上课。", "他说明天可能会下雨。"]
GUESSED_ZH = ["我今天去学校。", "他说明天会下雨。"]
WORDS = st.lists(st.sampled_from(["a", "b", "cat", "The", "the", "dog.", "12", "-"]), max_size=9).map(" ".join)


def scores(texts, references, **options):
    metrics = translation_metrics(references, **options)
    each = {}
    for metric in metrics:
        each |= metric.each(texts, references)
    signatures = {metric.name: metric.signature for metric in metrics if isinstance(metric, Sacrebleu)}
    return figures_of(metrics, each), signatures


def test_the_figures_are_those_of_sacrebleu():
    found, signatures = scores(GUESSED, ENGLISH)
    expected = {
        "bleu": sacrebleu.corpus_bleu(GUESSED, [ENGLISH]).score,
        "bleu_lowercased": sacrebleu.corpus_bleu(GUESSED, [ENGLISH], lowercase=True).score,
        "chrf": sacrebleu.corpus_chrf(GUESSED, [ENGLISH]).score,
        "ter": sacrebleu.corpus_ter(GUESSED, [ENGLISH]).score,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["bleu_lowercased"] > found["bleu"]
    assert "tok:13a" in signatures["bleu"] and "case:lc" in signatures["bleu_lowercased"]
    assert signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert found["length_ratio"] == pytest.approx(20 / 21)
    perfect, _ = scores(ENGLISH, ENGLISH)
    assert (perfect["bleu"], perfect["chrf"], perfect["ter"]) == (pytest.approx(100), pytest.approx(100), 0)


def test_sentences_that_end_in_a_lone_full_stop_are_no_reason_to_warn(caplog):
    texts = ["the cat sleeps ."] * 101
    with caplog.at_level("WARNING"):
        scores(texts, texts)
    assert caplog.records == []


@settings(max_examples=40)
@given(pairs=st.lists(st.tuples(WORDS, WORDS.filter(str.strip)), min_size=1, max_size=6))
def test_the_figures_are_those_of_sacrebleu_whatever_the_texts(pairs):
    texts, references = map(list, zip(*pairs, strict=True))
    for metric, theirs in ((Bleu("13a"), BLEU()), (ChrF(), CHRF()), (Ter(characters=False), TER())):
        found = figures_of([metric], metric.each(texts, references))[metric.name]
        assert found == pytest.approx(theirs.corpus_score(texts, [references]).score)


def test_a_single_text_is_scored_as_sacrebleu_does_it():
    for metric, theirs in ((Bleu("13a", sentences=True), BLEU(effective_order=True)), (ChrF(), CHRF())):
        each = metric.each([*GUESSED, "cat"], [*ENGLISH, "cat"])
        found = [metric.figure({metric.sums[0]: row}) for row in each[metric.sums[0]]]
        expected = [
            theirs.sentence_score(*pair).score
            for pair in ((GUESSED[0], ENGLISH[:1]), (GUESSED[1], ENGLISH[1:]), ("cat", ["cat"]))
        ]
        assert found == pytest.approx(expected) and found[2] == pytest.approx(100)


def test_the_interval_is_that_of_sacrebleu():
    draw = torch.Generator().manual_seed(0)
    words = ["the", "old", "cat", "sleeps", "on", "a", "warm", "hill", "and", "sees", "it", "now"]
    references, texts = [], []
    for _ in range(150):
        chosen = [words[number] for number in torch.randint(12, (12,), generator=draw)]
        wrong = torch.rand(12, generator=draw) < torch.rand(1, generator=draw) * 0.6
        references.append(" ".join(chosen))
        texts.append(" ".join("no" if each else word for word, each in zip(chosen, wrong, strict=True)))
    metric = Bleu("13a")
    low, high = intervals([metric], metric.each(texts, references), resamples=2000)["bleu"]
    theirs = BLEU().corpus_score(texts, [references], n_bootstrap=2000)
    assert (low + high) / 2 == pytest.approx(theirs._mean, abs=0.15 * theirs._ci)
    assert (high - low) / 2 == pytest.approx(theirs._ci, rel=0.08)


def test_chinese_is_not_taken_for_long_words():
    found, signatures = scores(GUESSED_ZH, CHINESE)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(GUESSED_ZH, [CHINESE], tokenize="zh").score)
    assert "tok:zh" in signatures["bleu"]
    wrong, _ = scores(GUESSED_ZH, CHINESE, tokenize="13a")
    assert wrong["bleu"] < found["bleu"] / 2
    assert 0 < found["ter"] < 100  # by characters, where words would all be wrong


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (ENGLISH, "13a"),
        (CHINESE, "zh"),
        ([*CHINESE, "GPT 和 BLEU"], "zh"),
        (["今日は学校へ行きました。"], "ja-mecab"),
        (["나는 오늘 학교에 갔다."], "ko-mecab"),
        (["12 + 30 = 42"], "13a"),
        (["Das Haus heißt 家."], "13a"),
    ],
)
def test_the_script_says_which_tokenizer(texts, expected):
    assert tokenizer_for(texts) == expected


def test_what_cannot_be_scored():
    with pytest.raises(InputError, match="sacrebleu has no tokenizer 'words'") as caught:
        translation_metrics(ENGLISH, tokenize="words")
    assert "13a" in caught.value.hint


def test_japanese_without_its_package_says_which(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "MeCab", None)
    with pytest.raises(InputError, match="BLEU of Japanese needs the package MeCab") as caught:
        translation_metrics(["今日は学校へ行きました。"])
    assert caught.value.hint == "pip install 'llmcli[mecab]'"


@settings(max_examples=40)
@given(st.lists(WORDS, min_size=2, max_size=6))
def test_self_bleu_is_the_mean_of_sacrebleu_with_all_others_as_references(texts):
    scorer = BLEU(effective_order=True, tokenize="none")
    expected = [scorer.sentence_score(text, texts[:n] + texts[n + 1 :]).score for n, text in enumerate(texts)]
    assert self_bleu([text.split() for text in texts]) == pytest.approx(sum(expected) / len(texts))


def test_self_bleu_of_texts_that_are_alike_and_of_one():
    assert self_bleu([["a", "b", "c", "d"]] * 3) == pytest.approx(100)
    assert self_bleu([["a"]]) is None and self_bleu([]) is None
