from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmcli.errors import InputError
from llmcli.text.augment.apply import to_tags, to_text
from llmcli.text.augment.base import Edit, edited
from llmcli.text.augment.edits import RandomDeletion, RandomSwap, TokenMask
from llmcli.text.augment.mixed import MixedScript, MixedWidth
from llmcli.text.augment.neighbours import Neighbours
from llmcli.text.augment.synonyms import RandomInsertion, Synonyms, read_synonyms
from llmcli.text.augment.typos import Typos
from llmcli.text.segment.english import EnglishWords

RULE = EnglishWords(contractions="whole")
WORDS = [f"w{n}" for n in range(40)]


@pytest.fixture(scope="module")
def thesaurus(tmp_path_factory):
    path = tmp_path_factory.mktemp("thesaurus") / "synonyms.txt"
    path.write_text("# made up\nquick\tfast\trapid\nNew York\tNYC\n好，棒，不错\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "vectors.txt"
    path.write_text("cat 1 0.1\ndog 1 0.2\nCat 1 0.1\nlion 0.9 0.4\nsum 0 1\n")
    return str(path)


@pytest.fixture(scope="module")
def steps(thesaurus, vectors):
    return [
        RandomDeletion(rate=0.3),
        RandomSwap(rate=0.3, distance=None),
        RandomInsertion(rate=0.5, path=thesaurus),
        Synonyms(rate=0.5, path=thesaurus),
        Neighbours(rate=0.5, path=vectors, nearest=2, min_similarity=0.5, most_words=10),
        Typos(rate=0.3, kinds=["key", "swap"]),
        MixedWidth(rate=0.3),
        TokenMask(rate=0.2),
    ]


def words_of(step, words=WORDS, seed=0):
    return [edit.word for edit in step(words, random.Random(seed))]


# -- steps ----------------------------------------------------------------------------------------------------------


def test_deletion_takes_the_share_it_is_given_and_never_all():
    left = sum(len(words_of(RandomDeletion(rate=0.25), seed=seed)) for seed in range(300)) / 300 / len(WORDS)
    assert left == pytest.approx(0.75, abs=0.02)
    assert words_of(RandomDeletion(rate=0.25)) == [
        word for word in WORDS if word in words_of(RandomDeletion(rate=0.25))
    ]
    assert {len(words_of(RandomDeletion(rate=1.0), ["a", "b"], seed)) for seed in range(9)} == {1}
    assert words_of(RandomDeletion(rate=1.0), []) == []


def test_swap_moves_words_and_keeps_them_all():
    for seed in range(50):
        moved = words_of(RandomSwap(rate=0.025, distance=None), seed=seed)  # one swap
        assert sum(a != b for a, b in zip(moved, WORDS, strict=True)) == 2 and sorted(moved) == sorted(WORDS)
        near = words_of(RandomSwap(rate=0.025, distance=1), seed=seed)
        first, second = (place for place, word in enumerate(near) if word != WORDS[place])
        assert second - first == 1
    assert words_of(RandomSwap(rate=1.0, distance=None), ["alone"]) == ["alone"]


def test_a_word_is_masked_where_it_stood():
    masked = [words_of(TokenMask(rate=0.2), seed=seed) for seed in range(200)]
    assert all(word in (None, WORDS[place]) for each in masked for place, word in enumerate(each))
    assert sum(each.count(None) for each in masked) / 200 / len(WORDS) == pytest.approx(0.2, abs=0.02)


def test_synonyms_come_from_the_file_in_the_case_of_the_word(thesaurus):
    step = Synonyms(rate=1.0, path=thesaurus)
    found = Counter(words_of(step, ["Quick", "fast", "NYC", "棒", "other"], seed)[0] for seed in range(60))
    assert set(found) == {"Fast", "Rapid"} and min(found.values()) > 15
    assert words_of(step, ["NYC"]) == ["NEW", "YORK"] and words_of(step, ["FAST"], 1)[0] in ("QUICK", "RAPID")
    assert words_of(step, ["棒"])[0] in ("好", "不错")
    assert words_of(step, ["other", None]) == ["other", None]


def test_insertion_keeps_the_words_and_adds_synonyms(thesaurus):
    step = RandomInsertion(rate=0.5, path=thesaurus)
    words = ["a", "quick", "trip", "home"]
    for seed in range(50):
        edits = step(words, random.Random(seed))
        assert [edit.word for edit in edits if not edit.new] == words
        assert [edit.word for edit in edits if edit.new] in [
            [a, b] for a in ("fast", "rapid") for b in ("fast", "rapid")
        ]
    assert words_of(step, ["nothing", "known"]) == ["nothing", "known"]


def test_neighbours_are_the_most_similar_vectors(vectors):
    step = Neighbours(rate=1.0, path=vectors, nearest=2, min_similarity=0.5, most_words=10)
    assert step.neighbours("cat") == ["dog", "lion"] and step.neighbours("CAT") == ["dog", "lion"]
    assert step.neighbours("sum") == [] == step.neighbours("unknown")
    assert {words_of(step, ["Cat"], seed)[0] for seed in range(20)} == {"Dog", "Lion"}
    narrower = Neighbours(rate=1.0, path=vectors, nearest=1, min_similarity=0.5, most_words=10)
    assert narrower.neighbours("cat") == ["dog"]
    stricter = Neighbours(rate=1.0, path=vectors, nearest=9, min_similarity=0.99, most_words=10)
    assert stricter.neighbours("cat") == ["dog"]
    fewer = Neighbours(rate=1.0, path=vectors, nearest=9, min_similarity=-1.0, most_words=2)
    assert fewer.neighbours("cat") == ["dog"]


def test_typos():
    swapped = {words_of(Typos(rate=1.0, kinds=["swap"]), ["Letter"], seed)[0] for seed in range(40)}
    assert swapped == {"Lteter", "Letetr"}
    hit = {words_of(Typos(rate=1.0, kinds=["key"]), ["Go"], seed)[0] for seed in range(200)}
    assert hit == {f"{key}o" for key in "FHTYVB"} | {f"G{key}" for key in "ipkl"}
    unchanged = ["cat", "汉字", "3.14", "éé"]
    assert words_of(Typos(rate=1.0, kinds=["swap"]), unchanged) == unchanged


def test_mixed_width_goes_both_ways():
    assert words_of(MixedWidth(rate=1.0), ["A1", "Ａ１", "，", "汉"]) == ["Ａ１", "A1", ",", "汉"]


def test_mixed_script_goes_both_ways():
    pytest.importorskip("opencc")
    assert words_of(MixedScript(rate=1.0), ["汉语", "漢語", "abc"]) == ["漢語", "汉语", "abc"]


def test_the_rate_is_that_of_each_word(steps):
    for kind in (lambda rate: MixedWidth(rate=rate), lambda rate: Typos(rate=rate, kinds=["key"])):
        changed = sum(a != b for seed in range(300) for a, b in zip(words_of(kind(0.1), seed=seed), WORDS, strict=True))
        assert changed / 300 / len(WORDS) == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1])
def test_a_rate_is_a_probability(rate):
    with pytest.raises(InputError, match=r"a rate \(.*\) must be above 0 and at most 1"):
        RandomDeletion(rate=rate)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Synonyms(rate=0.1, path=str(tmp_path / "none"))
    (tmp_path / "latin").write_bytes(b"caf\xe9, bar")
    with pytest.raises(InputError, match="is not UTF-8: byte 0xe9 at 3"):
        read_synonyms(tmp_path / "latin")
    (tmp_path / "empty").write_text("# nothing\nalone\n")
    with pytest.raises(InputError, match="holds no synonyms"):
        read_synonyms(tmp_path / "empty")
    with pytest.raises(InputError, match="empty, line 1"):
        Neighbours(rate=0.1, path=str(tmp_path / "empty"), nearest=1, min_similarity=0, most_words=1)
    with pytest.raises(InputError, match=r"augment.typos.kinds \(\) must be some of key, swap"):
        Typos(rate=0.1, kinds=[])


def test_sources_are_places_of_the_first_words(steps):
    edits = edited(WORDS, [RandomDeletion(rate=0.5), RandomSwap(rate=1.0, distance=None)], random.Random(0))
    assert all(edit == Edit(WORDS[edit.source], edit.source) for edit in edits) and 10 < len(edits) < 30


# -- running text ---------------------------------------------------------------------------------------------------


class Fixed(RandomDeletion):
    """A step that gives what a test wants."""

    def __init__(self, *edits):
        self.edits = [Edit(*each) for each in edits]

    def __call__(self, words, rng):
        return self.edits


def changed(text, *edits):
    return to_text(text, [Fixed(*edits)], RULE, random.Random(0))


def test_spaces_stay_between_words_that_follow_each_other():
    text = "  Good   day,\nworld !\t"
    words = RULE(text)
    assert words == ["Good", "day", ",", "world", "!"]
    same = [(word, place) for place, word in enumerate(words)]
    assert changed(text, *same) == [text]
    assert changed(text, ("Fine", 0), *same[1:]) == ["  Fine   day,\nworld !\t"]
    assert changed(text, same[0], *same[3:]) == ["  Good world !\t"]
    assert changed(text, same[3], same[1], same[2], same[0], same[4]) == ["  world day, Good!\t"]
    assert changed(text, *same[:2], ("now", 1, True), *same[2:]) == ["  Good   day now,\nworld !\t"]


def test_chinese_words_get_no_spaces():
    assert changed("我喜欢 你", ("喜", 1), ("我", 0), ("你", 3)) == ["喜我你"]


def test_hidden_words_stand_between_the_pieces():
    assert changed("a b c", ("a", 0), (None, 1), ("c", 2)) == ["a ", None, " c"]
    assert changed("a b c", (None, 0), (None, 1)) == [None, " ", None]
    assert changed("我们", (None, 1), ("我", 0)) == [None, "我"]


def test_a_text_without_words_is_left_alone(steps):
    for text in ("", "  \n"):
        assert to_text(text, steps, RULE, random.Random(0)) == [text]


@given(st.text(max_size=60), st.integers(0, 99))
@example("The quick cat, in NYC!", 3)
@example("好的，quick 猫", 4)
def test_any_text_can_be_changed_and_the_same_way_again(steps, text, seed):
    pieces = to_text(text, steps, RULE, random.Random(seed))
    assert pieces == to_text(text, steps, RULE, random.Random(seed))
    assert "" not in pieces or pieces == [text]
    assert to_text(text, [], RULE, random.Random(seed)) in ([text], [])


# -- tags -----------------------------------------------------------------------------------------------------------

TOKENS = ["New", "York", "and", "Rome", "are", "quick"]
TAGS = ["B-LOC", "I-LOC", "O", "B-LOC", "O", "O"]


def tagged(*edits, tokens=TOKENS, tags=TAGS):
    return to_tags(tokens, tags, [Fixed(*edits)], random.Random(0))


def test_tags_follow_their_tokens():
    assert tagged(("York", 1), ("and", 2)) == (["York", "and"], ["B-LOC", "O"])
    assert tagged(("York", 1), ("New", 0)) == (["York", "New"], ["B-LOC", "I-LOC"])
    assert tagged(("New", 0), ("are", 4), ("York", 1))[1] == ["B-LOC", "O", "B-LOC"]
    assert tagged((None, 0), ("York", 1)) == ([None, "York"], ["B-LOC", "I-LOC"])
    # Rome and York do not become one place
    assert tagged(("Rome", 3), ("York", 1))[1] == ["B-LOC", "B-LOC"]


def test_a_new_token_belongs_to_no_entity():
    assert tagged(("York", 1), ("old", 1, True), ("Rome", 3))[1] == ["B-LOC", "O", "B-LOC"]
    assert tagged(("old", 1, True), ("York", 1))[1] == ["O", "B-LOC"]
    assert to_tags(["a", "b"], ["DT", "NN"], [Fixed(("a", 0), ("c", 1, True), ("b", 1))], random.Random(0))[1] == [
        "DT", "NN", "NN",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["swap", "insertion"])
def test_no_step_tears_an_entity_apart(thesaurus, name):
    step = RandomSwap(rate=1.0, distance=None) if name == "swap" else RandomInsertion(rate=1.0, path=thesaurus)
    orders = set()
    for seed in range(60):
        found, follow = to_tags(TOKENS, TAGS, [step], random.Random(seed))
        assert follow.count("B-LOC") == 2 and follow.count("I-LOC") == 1
        assert found[found.index("New") + 1] == "York"
        orders.add(tuple(found))
    assert len(orders) > 10


def test_one_token_that_becomes_two(thesaurus):
    step = Synonyms(rate=1.0, path=thesaurus)
    found = to_tags(["in", "NYC"], ["O", "B-LOC"], [step], random.Random(0))
    assert found == (["in", "NEW", "YORK"], ["O", "B-LOC", "I-LOC"])
    assert to_tags(["in", "NYC"], ["IN", "NNP"], [step], random.Random(0))[1] == ["IN", "NNP", "NNP"]


@st.composite
def sentences(draw):
    """Tokens numbered so that each is known again, and valid IOB2 tags."""
    tags = []
    for kind in draw(st.lists(st.sampled_from(["O", "A", "B"]), max_size=8)):
        length = draw(st.integers(1, 3))
        tags += ["O"] * length if kind == "O" else [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
    return [f"w{place}" for place in range(len(tags))], tags


def is_valid(tags):
    return all(
        tag[:2] != "I-" or (last[:2] in ("B-", "I-") and last[2:] == tag[2:])
        for last, tag in zip(["O", *tags], tags, strict=False)
    )


@given(sentences(), st.integers(0, 999))
def test_tags_stay_valid_and_true(sentence, seed):
    tokens, tags = sentence
    steps = [RandomDeletion(rate=0.2), RandomSwap(rate=0.3, distance=None), TokenMask(rate=0.2)]
    found, follow = to_tags(tokens, tags, steps, random.Random(seed))
    assert len(found) == len(follow) and is_valid(follow)
    kinds = {token: tag[2:] for token, tag in zip(tokens, tags, strict=True)}
    assert all(token is None or kinds[token] == tag[2:] for token, tag in zip(found, follow, strict=True))
    begun = [sum(tag[0] == "B" for tag in each) for each in (tags, follow)]
    assert begun[1] <= begun[0], "an entity is not torn apart"


@given(sentences(), st.integers(0, 999))
def test_tags_stay_valid_when_tokens_come_in(steps, sentence, seed):
    tokens = [
        random.Random(seed + place).choice(["quick", "NYC", "cat", token]) for place, token in enumerate(sentence[0])
    ]
    found, follow = to_tags(tokens, sentence[1], steps, random.Random(seed))
    assert len(found) == len(follow) and is_valid(follow)
    assert to_tags(tokens, sentence[1], [], random.Random(seed)) == (tokens, sentence[1])
