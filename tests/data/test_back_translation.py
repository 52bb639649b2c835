from __future__ import annotations

import pytest

from llmcli.data.back_translation import reworded, synthetic_pairs
from llmcli.data.records import LabeledPair, LabeledText, QuestionAnswer, TaggedTokens, TextPair
from llmcli.errors import InputError

THERE = {"big": "gross", "dog": "Hund", "house": "Haus"}
BACK = {"gross": "large", "Hund": "hound", "Haus": "house"}


def by_words(words, seen=None):
    """A translator that knows a few words; `seen` gets how many texts each call had."""

    def translate(texts):
        if seen is not None:
            seen.append(len(texts))
        return [" ".join(words.get(word, word) for word in text.split()) for text in texts]

    return translate


def round_trip(records, **changes):
    return list(reworded(records, there=by_words(THERE), back=by_words(BACK), **changes))


def test_texts_are_reworded_and_labels_kept():
    records = [LabeledText("a big dog", ("x",)), LabeledText("the house", ("y",)), LabeledText("a dog", ("z",))]
    # what came back as it was adds nothing
    assert round_trip(records) == [LabeledText("a large hound", ("x",)), LabeledText("a hound", ("z",))]


def test_only_texts_that_labels_are_not_about_change():
    assert round_trip([TextPair("big", "big")]) == [TextPair("large", "big")]
    assert round_trip([LabeledPair("big", "dog", ("x",))]) == [LabeledPair("large", "hound", ("x",))]
    asked = QuestionAnswer("how big", "a big dog", ("dog",), (6,))
    assert round_trip([asked]) == [QuestionAnswer("how large", "a big dog", ("dog",), (6,))]


def test_records_are_translated_in_groups_as_they_come():
    seen = []
    records = (LabeledPair(f"big {n}", f"dog {n}", ("x",)) for n in range(5))
    found = reworded(records, there=by_words(THERE, seen), back=by_words(BACK), at_once=2)
    assert next(found) == LabeledPair("large 0", "hound 0", ("x",)) and seen == [4]
    assert [each.first for each in found] == [f"large {n}" for n in range(1, 5)] and seen == [4, 4, 2]


def test_what_comes_back_empty_is_left_out():
    records = [LabeledText("big", ("x",)), LabeledText("dog", ("y",)), LabeledText("", ("z",))]
    nothing = by_words({"gross": "", "Hund": "hound"})
    assert list(reworded(records, there=by_words(THERE), back=nothing)) == [LabeledText("hound", ("y",))]


def test_sources_for_targets():
    pairs = list(synthetic_pairs(["big dog", "house"], translate=by_words({**THERE, "house": ""})))
    assert pairs == [TextPair("gross Hund", "big dog")]


def test_what_cannot_be_reworded():
    with pytest.raises(InputError, match="TaggedTokens records cannot be reworded"):
        round_trip([TaggedTokens(("big",), ("O",))])
    with pytest.raises(InputError, match="the translator gave 0 texts for 1"):
        list(reworded([LabeledText("big")], there=lambda texts: [], back=by_words(BACK)))
