"""The rules of Gopher and C4, each with a text that only it refuses."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

_WORDS = "river stone yellow seven window lantern garden follow simple evening quiet mountain walking letter"
WORDS = _WORDS.split()


def prose(count: int, seed: int = 0) -> str:
    """Sentences of invented prose with the words that Gopher looks for."""
    rng = random.Random(seed)
    return " ".join(f"The {' '.join(rng.sample(WORDS, 5))} and {rng.choice(WORDS)}." for _ in range(count // 8))


GOOD = prose(80)


@pytest.mark.parametrize(
    "option, changed, text",
    [  # `text` is dropped as shipped and stays with the changed option
        ("min_words", 10, prose(16)),
        ("max_words", 200_000, " ".join([GOOD] * 1300)),
        ("min_mean_word_length", 1, GOOD + " a" * 100),
        ("max_mean_word_length", 30, GOOD + " incomprehensibilities" * 60),
        ("max_symbols_per_word", 1.0, GOOD + " #" * 15),
        ("max_symbols_per_word", 1.0, GOOD + "…" * 15 + " end."),
        ("max_bullet_lines", 1.0, GOOD.replace("The", "\n- The")),
        ("max_ellipsis_lines", 1.0, GOOD.replace(".", ".") + "\nand so on..."),
        ("min_alphabetic_words", 0.5, GOOD + " 1234" * 40),
        ("min_stop_words", 1, GOOD.replace("The ", "")),
        ("stop_words", ["river", "garden"], GOOD.replace("The ", "").replace("and ", "")),
    ],
)
def test_gopher(step, option, changed, text):
    assert step("gopher")(GOOD) == GOOD
    assert step("gopher")(text) is None
    assert step("gopher", **{option: changed})(text) == text


def test_gopher_in_chinese(step):
    text = "这是一篇短文。河边的磨坊很老了，我们在那里住了三年。" * 3
    assert step("gopher_zh")(text) == text and step("gopher")(text) is None
    assert step("gopher_zh")(GOOD) is None
    assert step("gopher_zh")("天地玄黄宇宙洪荒" * 10) is None  # no function word


LINES = [f"{prose(8, seed)} {seed * seed + 17}" for seed in range(20)]
UNLIMITED = {
    "max_duplicate_lines": 1.0,
    "max_duplicate_line_characters": 1.0,
    "max_duplicate_paragraphs": 1.0,
    "max_duplicate_paragraph_characters": 1.0,
    "max_top_ngram": {},
    "max_duplicate_ngrams": {},
}


@pytest.mark.parametrize(
    "option, limit, text",
    [
        ("max_duplicate_lines", 0.3, "\n".join([*LINES, *(["ok"] * 12)])),
        ("max_duplicate_line_characters", 0.2, "\n".join([*LINES, *LINES[:6]])),
        ("max_duplicate_paragraphs", 0.3, "\n\n".join([*LINES, *(["ok\nyes"] * 12)])),
        ("max_duplicate_paragraph_characters", 0.2, "\n\n".join([*LINES, *LINES[:6]])),
        ("max_top_ngram", {2: 0.2}, " ".join(f"one two {number}" for number in range(40))),
        ("max_duplicate_ngrams", {5: 0.15}, " ".join([*LINES, *LINES[:6]])),
        ("max_duplicate_ngrams", {10: 0.1}, " ".join([*LINES, *LINES[:6]])),
    ],
)
def test_gopher_repetition(step, option, limit, text):
    """Each limit alone drops a text that has too much of its kind, and the shipped ones keep what has not."""
    assert step("gopher_repetition", **UNLIMITED)(text) == text
    assert step("gopher_repetition", **{**UNLIMITED, option: limit})(text) is None
    plain = " ".join(f"word{number} and{number * 7 % 1001}" for number in range(200))
    assert step("gopher_repetition")(plain) == plain
    assert step("gopher_repetition")(text) is None


def shares(words: list[str], n: int) -> tuple[float, float]:
    """Straight from the paper: characters in the most frequent n-gram, and in n-grams that came before."""
    grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    total = sum(map(len, words))
    counts = Counter(grams)
    count, size = max(((count, len("".join(gram))) for gram, count in counts.items()), default=(0, 0))
    covered = {at + k for at, gram in enumerate(grams) if gram in grams[:at] for k in range(n)}
    return (count * size / total if count > 1 else 0.0), sum(len(words[at]) for at in covered) / total


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=25), st.integers(2, 5), st.floats(0, 1.2))
def test_gopher_repetition_counts_as_the_definition_says(step, words, n, limit):
    top, duplicate = shares(words, n)
    text = " ".join(words)
    for option, share in (("max_top_ngram", top), ("max_duplicate_ngrams", duplicate)):
        if abs(share - limit) > 1e-9:
            kept = step("gopher_repetition", **{**UNLIMITED, option: {n: limit}})(text)
            assert (kept is None) == (share > limit)


BRACE = "A brace { in a line of some words."
ZH_PAGE = "今天天气很好。我们去公园散步吧！\n你也来吗？他说：“我不来了。”"
PAGE = "A line that is long enough to stay here.\nAnother one follows it, as it should!\nDoes a third one end it?"


@pytest.mark.parametrize(
    "options, text, expected",
    [
        ({}, f"Menu\n{PAGE}\nToo short.\n  no end mark at all here\nPlease enable JavaScript to see this page.", PAGE),
        ({}, PAGE.replace("here.", "here.[1][citation needed]"), PAGE),
        ({}, f"{PAGE}\nLorem Ipsum dolor sit amet, and so on.", None),
        ({}, f"{PAGE}\n{BRACE}", None),
        ({}, PAGE.splitlines()[0], None),
        ({"min_sentences": 1}, PAGE.splitlines()[0], PAGE.splitlines()[0]),
        ({"end_marks": ["."], "min_sentences": 1}, PAGE, PAGE.splitlines()[0]),
        ({"min_words_per_line": 8}, PAGE, None),
        ({"min_words_per_line": 2}, f"Too short.\n{PAGE}", f"Too short.\n{PAGE}"),
        ({"max_word_length": 6, "min_sentences": 1}, PAGE, "\n".join([PAGE.splitlines()[0], PAGE.splitlines()[2]])),
        ({"drop_lines": ["THIRD"], "min_sentences": 2}, PAGE, "\n".join(PAGE.splitlines()[:2])),
        ({"drop_documents": ["another"]}, PAGE, None),
        ({"drop_documents": []}, f"{PAGE}\n{BRACE}", f"{PAGE}\n{BRACE}"),
        ({}, ZH_PAGE, ZH_PAGE),
    ],
)
def test_c4(step, options, text, expected):
    assert step("c4", **options)(text) == expected
