"""What stands twice is found in any spelling of white space and case, counted, and dropped from train alone."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli import config
from llmcli.catalog import Catalog, config_dir
from llmcli.data.duplicates import HEAD, Exact, Kept, Near, shingles
from llmcli.data.prepare import prepare
from llmcli.data.records import LabeledPair, LabeledText, Preference, TaggedTokens, Text, TextPair, Turn
from llmcli.data.source import Source
from llmcli.errors import InputError
from llmcli.tokenizers.byte import ByteTokenizer

LEAKS = {"drop_leaks": True, "drop_repeats": False, "min_characters": 5}
ALL = {**LEAKS, "drop_repeats": True}
NEAR = {"threshold": 0.7, "shingle": 3}


def kept(splits, policy):
    """The train split that is left, and the counts."""
    view = Kept(lambda split: iter(splits[split]), tuple(splits), policy)
    first, again = list(view.records("train")), list(view.records("train"))
    assert first == again, "a later pass leaves out the same"
    for split in set(splits) - {"train"}:
        assert list(view.records(split)) == splits[split]
    return first, view.counts()


def labeled(*texts):
    return [LabeledText(text, ("x",)) for text in texts]


SPLITS = {
    "train": labeled("a fine film", "dull", "A fine  film", "long and dull", "dull", "new"),
    "val": labeled("a fine film\n", "other", "a FINE film"),
    "test": labeled("dull", "new", "something"),
}


def test_leaks_are_counted_by_both_sides_and_dropped_from_train_alone():
    left, counts = kept(SPLITS, Exact(**LEAKS))
    assert left == labeled("long and dull")
    assert counts == {
        "kind": "exact",
        "dropped": 5,
        "repeats": None,
        "leaks": {"val": 2, "test": 3},
        "seen": {"val": 2, "test": 2},
    }


def test_where_nothing_is_dropped_the_counts_are_the_same():
    left, counts = kept(SPLITS, Exact(drop_leaks=False, drop_repeats=False, min_characters=5))
    assert left == SPLITS["train"]
    assert (counts["dropped"], counts["leaks"], counts["seen"]) == (0, {"val": 2, "test": 3}, {"val": 2, "test": 2})


def test_the_first_of_repeats_is_kept():
    left, counts = kept({"train": labeled("one two", "three", "One two", "three", "four")}, Exact(**ALL))
    assert left == labeled("one two", "three", "four")
    assert (counts["repeats"], counts["dropped"], counts["leaks"]) == (2, 2, {})


def test_no_policy_keeps_all_and_counts_nothing():
    assert kept(SPLITS, None) == (SPLITS["train"], {})


@pytest.mark.parametrize(
    ("train", "held", "leaks", "left"),
    [
        # an answer that was asked for does not make two examples different; the whole pair repeats only where both do
        ([TextPair("hello", "salut"), TextPair("hello", "bonjour")], [TextPair("hello", "allo")], 2, 0),
        ([TextPair("hello", "salut"), TextPair("hello", "bonjour")], [TextPair("bye", "salut")], 0, 2),
        ([LabeledPair("ab", "c", ("x",))], [LabeledPair("a", "bc", ("x",))], 0, 1),
        ([TaggedTokens(("a", "b"), ("O", "O"))], [TaggedTokens(("a", "b"), ("O", "B-X"))], 1, 0),
        (
            [Preference((Turn("user", "why"),), "so", "no"), Preference((Turn("user", "why"),), "so", "well")],
            [Preference((Turn("user", "how"),), "so", "no")],
            0,
            2,
        ),
    ],
)
def test_what_makes_two_examples_alike(train, held, leaks, left):
    kept_, counts = kept({"train": train, "test": held}, Exact(**ALL))
    assert (counts["leaks"], len(kept_)) == ({"test": leaks}, left)


@given(
    st.lists(st.text("ab \n", min_size=1, max_size=4), max_size=12), st.lists(st.text("ab \n", max_size=4), max_size=6)
)
def test_against_brute_force(train, held):
    def bare(text):
        return "".join(text.split())

    left, counts = kept({"train": labeled(*train), "val": labeled(*held)}, Exact(**ALL))
    leaks = [text for text in train if bare(text) in set(map(bare, held))]
    first = {}
    for text in train:
        if text not in leaks:
            first.setdefault(bare(text), text)
    assert left == labeled(*first.values())
    assert counts["leaks"]["val"] == len(leaks)
    assert counts["seen"]["val"] == sum(bare(text) in set(map(bare, train)) for text in held)
    assert counts["dropped"] == len(train) - len(first)


# -- running text --------------------------------------------------------------------------------------------------


def pieces(text, size):
    cut = [text[i : i + size] for i in range(0, len(text), size)] or [""]
    return [Text(part, end=i == len(cut) - 1) for i, part in enumerate(cut)]


@given(st.lists(st.text("ab c", min_size=1, max_size=30), max_size=8), st.integers(1, 7), st.integers(1, 7))
def test_how_a_document_is_cut_into_pieces_changes_nothing(texts, size, other):
    held = [piece for text in texts[::2] for piece in pieces(text, other)]
    whole, counts = kept({"train": [Text(text) for text in texts], "val": held}, Exact(**ALL))
    cut, same = kept({"train": [piece for text in texts for piece in pieces(text, size)], "val": held}, Exact(**ALL))
    assert same == counts
    assert "".join(piece.text + "|" * piece.end for piece in cut) == "".join(f"{piece.text}|" for piece in whole)


def test_short_documents_are_alike_by_chance():
    splits = {"train": [Text("yes"), Text("yes, it is")], "val": [Text("yes"), Text("yes, it is")]}
    left, counts = kept(splits, Exact(**LEAKS))
    assert (left, counts["leaks"]) == ([Text("yes")], {"val": 1})


def test_a_long_document_is_known_by_its_beginning_and_never_held_whole():
    """Train has a copy of a held document of 4 million characters; at most two pieces of it are read ahead."""
    rng, size = random.Random(0), 400_000
    document = ["".join(rng.choices("abcdefgh ", k=size)) for _ in range(10)]
    taken = []

    def records(split):
        for i, text in enumerate(document):
            taken.append(i)
            yield Text(text, end=i == 9)
        if split == "train":
            yield from (Text(text[::-1], end=i == 9) for i, text in enumerate(document))

    view = Kept(records, ("train", "val"), Exact(**LEAKS))
    left = view.records("train")
    assert next(left).text == document[0][::-1]
    assert view.counts() == {} and len(list(left)) == 9
    assert (view.counts()["dropped"], view.counts()["leaks"]) == (1, {"val": 1})

    held = Kept(lambda split: map(lambda t: taken.append(t) or t, records(split)), ("train",), Exact(**ALL))
    taken.clear()
    next(held.records("train"))
    assert sum(isinstance(each, Text) for each in taken) <= HEAD // size + 1


# -- near ----------------------------------------------------------------------------------------------------------


def test_shingles():
    assert shingles("The cat, the CAT sat!", 3) == ["the cat the", "cat the cat", "the cat sat"]
    assert shingles("我爱北京，iPhone 好", 3) == ["我 爱 北", "爱 北 京", "北 京 iphone", "京 iphone 好"]
    assert shingles("two words", 3) == ["two words"]
    assert shingles("...", 3) == [""]


def edited(words, rng, changes):
    changed = list(words)
    for place in rng.sample(range(len(words)), changes):
        changed[place] = f"new{rng.random()}"
    return " ".join(changed)


def jaccard(a, b):
    a, b = set(shingles(a, 3)), set(shingles(b, 3))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("chinese", [False, True])
def test_nearly_alike_is_by_the_share_of_common_shingles(chinese):
    rng = random.Random(3)
    letters = [chr(0x4E00 + i) for i in range(3000)] if chinese else [f"word{i}" for i in range(3000)]
    originals = [rng.choices(letters, k=rng.randint(60, 200)) for _ in range(150)]
    close = [edited(words, rng, max(1, len(words) // 60)) for words in originals]
    far = [edited(words, rng, len(words) // 5) for words in originals]
    held = labeled(*(" ".join(words) for words in originals))
    assert all(jaccard(a.text, b) > 0.8 for a, b in zip(held, close, strict=True))
    assert all(jaccard(a.text, b) < 0.4 for a, b in zip(held, far, strict=True))
    left, counts = kept({"train": labeled(*close, *far), "val": held}, Near(**ALL, **NEAR))
    assert left == labeled(*far)
    assert counts["leaks"] == counts["seen"] == {"val": 150}
    left, counts = kept({"train": [*held, *labeled(*close)], "val": labeled("else")}, Near(**ALL, **NEAR))
    assert (left, counts["repeats"]) == (held, 150)


def test_the_threshold_decides():
    rng = random.Random(5)
    words = [f"w{i}" for i in range(200)]
    other = edited(words, rng, 10)
    assert 0.6 < jaccard(" ".join(words), other) < 0.8
    found = {
        threshold: kept(
            {"train": labeled(other), "val": labeled(" ".join(words))}, Near(**LEAKS, threshold=threshold, shingle=3)
        )[1]["leaks"]["val"]
        for threshold in (0.5, 0.9)
    }
    assert found == {0.5: 1, 0.9: 0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.4, "shingle": 3}, r"duplicates.threshold \(0.4\) must be from 0.5 to 1"),
        ({"threshold": 0.7, "shingle": 0}, r"duplicates.shingle \(0\) must be at least 1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Near(**LEAKS, **settings)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rensa", None)
    with pytest.raises(InputError, match="duplicates=near needs the package rensa") as caught:
        kept(SPLITS, Near(**LEAKS, **NEAR))
    assert caught.value.hint == "pip install 'llmcli[text]'"


# -- in prepare and on the command line ----------------------------------------------------------------------------


class Reviews(Source[LabeledText]):
    record = LabeledText
    splits = tuple(SPLITS)

    def fingerprint(self):
        return {"reader": "reviews"}

    def records(self, split):
        return iter(SPLITS[split])

    def describe(self):
        return "reviews"


def test_prepared_data_has_what_is_kept_under_a_key_of_its_own(tmp_path):
    policies = [None, Exact(**LEAKS), Exact(**ALL), Exact(**{**ALL, "min_characters": 6})]
    found = [
        prepare(Reviews(), duplicates=policy, tokenizer=ByteTokenizer(), tokenizer_key={}, cache_dir=tmp_path)
        for policy in policies
    ]
    assert len({each.path for each in found}) == 4
    assert [each.count("documents", "train") for each in found] == [6, 1, 1, 1]
    assert list(found[1].examples("train")) == labeled("long and dull")
    assert [each.count("documents", "test") for each in found] == [3, 3, 3, 3]
    assert found[0].manifest["copies"] == {}
    assert found[1].manifest["copies"]["seen"] == {"val": 2, "test": 2}


OPTIONS = Catalog([config_dir()]).options("data")


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_only_what_is_the_users_own_loses_leaks_by_default(option):
    chosen = config.compose("train", [f"data={option.name}"]).duplicates
    assert (chosen.drop_leaks, chosen.drop_repeats) == ("your own" in option.meaning, False)


def test_your_own_text_loses_what_leaks_and_the_line_says_so(llm, tmp_path):
    lines = [f"This is sentence number {i} of a text that is long enough." for i in range(60)]
    (tmp_path / "a.txt").write_text("\n".join([*lines, lines[3], lines[4].upper()]) + "\n", "utf-8")
    args = ["data=text", "data.path=a.txt", "data.document=line", "data.split=position", "tokenizer=byte", "--json"]
    default, asked = llm("prepare", *args), llm("prepare", *args, "duplicates=report")
    counts = [json.loads(each.out)["splits"]["train"]["documents"] for each in (default, asked)]
    assert counts[1] - counts[0] == 2
    assert "2 of 7 val documents also stand in train; 2 dropped from train" in default.err
    assert "2 of 7 val documents also stand in train; kept: duplicates=drop_leaks drops them from train" in asked.err
