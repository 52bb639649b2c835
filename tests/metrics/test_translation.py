"""BLEU, chrF and TER: those of sacrebleu with the tokenizer that the language needs."""

import pytest
import sacrebleu

from llmcli.errors import InputError
from llmcli.metrics.translation import tokenizer_for, translation_scores

ENGLISH = ["The old house stands on the hill.", "A cat sleeps in the warm sun, and nobody wakes it."]
GUESSED = ["the old house stands on a hill.", "A cat is sleeping in the sun and nobody wakes it."]
CHINESE = ["我今天去学校上课。", "他说明天可能会下雨。"]
GUESSED_ZH = ["我今天去学校。", "他说明天会下雨。"]


def test_the_figures_are_those_of_sacrebleu():
    found = translation_scores(GUESSED, ENGLISH)
    expected = {
        "bleu": sacrebleu.corpus_bleu(GUESSED, [ENGLISH]).score,
        "bleu_lowercased": sacrebleu.corpus_bleu(GUESSED, [ENGLISH], lowercase=True).score,
        "chrf": sacrebleu.corpus_chrf(GUESSED, [ENGLISH]).score,
        "ter": sacrebleu.corpus_ter(GUESSED, [ENGLISH]).score,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["bleu_lowercased"] > found["bleu"]
    assert "tok:13a" in found["signatures"]["bleu"] and "case:lc" in found["signatures"]["bleu_lowercased"]
    assert found["length_ratio"] == pytest.approx(20 / 21)
    perfect = translation_scores(ENGLISH, ENGLISH)
    assert (perfect["bleu"], perfect["chrf"], perfect["ter"]) == (pytest.approx(100), pytest.approx(100), 0)


def test_chinese_is_not_taken_for_long_words():
    found = translation_scores(GUESSED_ZH, CHINESE)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(GUESSED_ZH, [CHINESE], tokenize="zh").score)
    assert "tok:zh" in found["signatures"]["bleu"]
    wrong = translation_scores(GUESSED_ZH, CHINESE, tokenize="13a")
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
    with pytest.raises(InputError, match="2 hypotheses cannot be scored against 1 references"):
        translation_scores(GUESSED, ENGLISH[:1])
    with pytest.raises(InputError, match="0 hypotheses"):
        translation_scores([], [])
    with pytest.raises(InputError, match="sacrebleu has no tokenizer 'words'") as caught:
        translation_scores(GUESSED, ENGLISH, tokenize="words")
    assert "13a" in caught.value.hint


def test_japanese_without_its_package_says_which(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "MeCab", None)
    with pytest.raises(InputError, match="BLEU of Japanese needs the package MeCab") as caught:
        translation_scores(["今日"], ["今日は学校へ行きました。"])
    assert caught.value.hint == "pip install 'llmcli[mecab]'"
