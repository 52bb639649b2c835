from __future__ import annotations

import random

import numpy as np
import pytest

from llmcli.data.augment import Augmentation, SubwordSampling
from llmcli.data.mentions import Mentions
from llmcli.data.records import (
    Conversation,
    LabeledPair,
    LabeledText,
    MultipleChoice,
    QuestionAnswer,
    TaggedTokens,
    TextPair,
)
from llmcli.errors import InputError
from llmcli.text.augment.apply import entity_spans
from llmcli.text.augment.edits import RandomDeletion, RandomSwap, TokenMask
from llmcli.tokenizers.byte import ByteTokenizer
from llmcli.tokenizers.subword import train

MASK = 4
TEXT = "the cat sat on a mat and quickly ran away from some other running cats"
WORDS = TEXT.split()
MENTIONS = {"mentions": Mentions(rate=0.9)}
DELETE = {"random_deletion": RandomDeletion(rate=0.4)}


def make(steps=None, record=LabeledText, tokenizer=None, **changes):
    settings = {"words": "rule", "share": 1.0, "seed": 1}
    tokenizer = tokenizer or ByteTokenizer()
    return Augmentation(
        DELETE if steps is None else steps, record=record, tokenizer=tokenizer, **{**settings, **changes}
    )


def call(augment, record, number=0, showing=0, epoch=0):
    ids = [np.array(augment.tokenizer.encode(text)) for text in record.texts()]
    return augment(record, ids, number=number, showing=showing, epoch=epoch)


def decoded(augment, rows):
    return tuple(augment.tokenizer.decode([index for index in row if index != MASK]) for row in rows)


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (LabeledText(TEXT, ("a",)), {"text"}),
        (LabeledPair(TEXT, TEXT, ("a",)), {"first", "second"}),
        (TextPair(TEXT, TEXT), {"source"}),
        (QuestionAnswer(TEXT, TEXT, ("cat",), (4,)), {"question"}),
        (MultipleChoice(TEXT, TEXT, (TEXT, TEXT), 1), {"context"}),
        (TaggedTokens(tuple(WORDS), ("O",) * len(WORDS)), {"tokens", "tags"}),
    ],
    ids=lambda each: type(each).__name__ if not isinstance(each, set) else "",
)
def test_every_kind_keeps_what_its_labels_are_about(record, fields):
    augment = make(record=type(record))
    changed, ids = call(augment, record)
    assert decoded(augment, ids) == changed.texts()
    assert {name for name in record.__dataclass_fields__ if getattr(changed, name) != getattr(record, name)} == fields


def test_tags_and_ids_go_with_their_tokens():
    record = TaggedTokens(tuple(WORDS), ("B-X", "I-X", *["O"] * (len(WORDS) - 2)))
    augment = make({**DELETE, "token_mask": TokenMask(rate=0.3)}, record=TaggedTokens)
    for number in range(20):
        changed, ids = call(augment, record, number)
        assert len(ids) == len(changed.tokens) == len(changed.tags) < len(WORDS)
        for token, row in zip(changed.tokens, ids, strict=True):
            assert row.tolist() == ([MASK] if token == "<mask>" else augment.tokenizer.encode(token))


def test_a_hidden_word_is_one_mask_id_and_one_typed_by_the_user_is_not():
    augment = make({"token_mask": TokenMask(rate=1.0)})
    changed, [ids] = call(augment, LabeledText("one two"))
    assert changed.text == "<mask> <mask>" and ids.tolist() == [MASK, *augment.tokenizer.encode(" "), MASK]
    _, [ids] = call(make({"random_swap": RandomSwap(rate=0.1, distance=None)}), LabeledText("a <mask> b"))
    assert MASK not in ids


def test_what_is_drawn_follows_from_seed_epoch_number_and_showing():
    record = LabeledText(TEXT)
    usual = call(make(), record, number=3, showing=1, epoch=2)[0]
    augment = make()
    random.seed(5)
    for number in range(5):
        call(augment, record, number)
    assert call(augment, record, number=3, showing=1, epoch=2)[0] == usual
    others = [
        call(make(seed=2), record, number=3, showing=1, epoch=2)[0],
        call(augment, record, number=4, showing=1, epoch=2)[0],
        call(augment, record, number=3, showing=0, epoch=2)[0],
        call(augment, record, number=3, showing=1, epoch=3)[0],
    ]
    assert len({usual, *others}) == 5


def test_a_share_of_the_examples_is_left_as_it_is():
    augment = make(share=0.25)
    records = [LabeledText(f"{TEXT} {number}") for number in range(400)]
    changed = sum(call(augment, record, number)[0] != record for number, record in enumerate(records))
    assert changed / 400 == pytest.approx(0.25, abs=0.06)


def test_steps_follow_each_other_in_their_order():
    steps = {"token_mask": TokenMask(rate=1.0), "random_deletion": RandomDeletion(rate=0.5)}
    changed, _ = call(make(steps), LabeledText(TEXT))
    assert set(changed.text.split()) == {"<mask>"} and len(changed.text.split()) < len(WORDS)


@pytest.fixture(scope="module")
def bpe():
    texts = [" ".join(random.Random(seed).choices(WORDS, k=12)) for seed in range(200)]
    options = {"vocab_size": 340, "character_coverage": 1.0, "max_piece_length": 16, "sample_characters": 10**6}
    return train(texts, algorithm="bpe", seed=1, **options)


def test_mentions_take_the_place_of_others_of_their_kind():
    tags = ("O", "B-PER", "O", "B-LOC", "I-LOC", "B-PER")
    record = TaggedTokens(("now", "Ann", "left", "New", "York", "Bo"), tags)
    other = TaggedTokens(("Li", "Wei", "in", "Rome"), ("B-PER", "I-PER", "O", "B-LOC"))
    persons, places = {("Ann",), ("Bo",), ("Li", "Wei")}, {("New", "York"), ("Rome",)}
    augment = make(MENTIONS, TaggedTokens, examples=[record, other])
    seen = set()
    for number in range(60):
        changed, ids = call(augment, record, number)
        assert decoded(augment, ids) == changed.texts()
        assert [word for word, tag in zip(changed.tokens, changed.tags, strict=True) if tag == "O"] == ["now", "left"]
        spans = [(changed.tags[start][2:], changed.tokens[start:end]) for start, end in entity_spans(changed.tags)]
        assert [kind for kind, _ in spans] == ["PER", "LOC", "PER"]
        assert all(mention in (persons if kind == "PER" else places) for kind, mention in spans)
        seen.add(changed.tokens)
    assert len(seen) == 3 * 2 * 3  # every way
    masked = make({**MENTIONS, "token_mask": TokenMask(rate=0.5)}, TaggedTokens, examples=[record, other])
    changed, _ = call(masked, record)
    assert len(changed.tokens) == len(changed.tags)
    assert "<mask>" in changed.tokens


def test_entity_spans():
    assert entity_spans(["B-X", "I-X", "B-X", "O", "I-Y", "B-Z"]) == [(0, 2), (2, 3), (4, 5), (5, 6)]
    assert entity_spans(["NN", "B-X"]) == []  # parts of speech


def test_subword_sampling_changes_the_ids_and_no_text(bpe):
    augment = make({"subword_sampling": SubwordSampling(alpha=0.3)}, tokenizer=bpe)
    record = LabeledText(TEXT, ("a",))
    drawn = [call(augment, record, epoch=epoch) for epoch in range(8)]
    assert {each for each, _ in drawn} == {record}
    assert len({tuple(ids.tolist()) for _, [ids] in drawn}) == 8
    assert all(decoded(augment, ids) == (TEXT,) for _, ids in drawn)
    assert call(augment, record, epoch=3)[1][0].tolist() == drawn[3][1][0].tolist()


def test_subword_sampling_of_changed_words(bpe):
    augment = make({**DELETE, "subword_sampling": SubwordSampling(alpha=0.3)}, tokenizer=bpe)
    changed, ids = call(augment, LabeledText(TEXT))
    assert len(changed.text) < len(TEXT) and decoded(augment, ids) == (changed.text,)
    assert ids[0].tolist() != bpe.encode(changed.text)


def test_jieba_words():
    pytest.importorskip("rjieba")
    text = "我来到北京清华大学"
    for words, units in (("rule", set(text)), ("jieba", {"我", "来到", "北京", "清华大学"})):
        augment = make({"token_mask": TokenMask(rate=0.5)}, words=words)
        for number in range(20):
            left = call(augment, LabeledText(text), number)[0].text.split("<mask>")
            assert all(any(part.endswith(unit) for unit in units) for part in left if part)
            assert words == "rule" or not any(part.startswith("京") or part.endswith("北") for part in left)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make(record=Conversation), r"augment=\[random_deletion\] cannot change Conversation records"),
        (lambda: make(words="words"), r"batch.augment_words \(words\) must be one of rule, jieba"),
        (lambda: make(share=0.0), r"rate \(0.0\) must be above 0"),
        (lambda: SubwordSampling(alpha=1.5), r"alpha \(1.5\) must be from 0 to 1"),
        (lambda: make({"subword_sampling": SubwordSampling(alpha=0.1)}), "needs a tokenizer that can cut"),
        (lambda: Mentions(rate=1.5), r"rate \(1.5\) must be above 0 and at most 1"),
        (lambda: make(MENTIONS), r"entities of tagged sentences, and these are LabeledText"),
        (lambda: make(MENTIONS, TaggedTokens, examples=[TaggedTokens(("x",), ("NN",))]), "the train split has none"),
    ],
)
def test_what_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_tokenizer_without_a_mask():
    tokenizer = ByteTokenizer()
    tokenizer.mask_id = None
    with pytest.raises(InputError, match="needs a tokenizer with a <mask>"):
        make({"token_mask": TokenMask(rate=0.1)}, tokenizer=tokenizer)
