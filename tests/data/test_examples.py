import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.data.prepare import prepare
from llmcli.data.records import (
    KINDS,
    Conversation,
    LabeledPair,
    LabeledText,
    MultipleChoice,
    Preference,
    QuestionAnswer,
    TaggedTokens,
    Text,
    TextPair,
    Turn,
    from_plain,
    to_plain,
)
from llmcli.data.source import Source
from llmcli.errors import InputError
from llmcli.text.normalize import lowercase
from llmcli.tokenizers.byte import ByteTokenizer

TURNS = (Turn("system", "Be brief."), Turn("user", "你好"), Turn("assistant", "Hello."))
ONE_OF_EACH = [
    Text("a document", end=False),
    LabeledText("good\n film", ("positive", "short")),
    LabeledText("3.5 stars", value=3.5),
    LabeledPair("a", "b", ("entails",)),
    TaggedTokens(("Rome", "is", "old"), ("B-LOC", "O", "O")),
    TextPair("Guten Tag", "good day"),
    QuestionAnswer("who?", "it was Ada", ("Ada",), (7,), "q1"),
    QuestionAnswer("why?", "it was Ada"),
    MultipleChoice("", "2 + 2", ("3", "4"), 1),
    Conversation(TURNS),
    Preference(TURNS[:2], "Hi!", "What?"),
]


class Given(Source):
    """Records handed over by a test."""

    def __init__(self, **splits):
        self.given = splits
        self.record = type(next(iter(splits["train"]), LabeledText("")))

    @property
    def splits(self):
        return tuple(self.given)

    def fingerprint(self):
        return {split: [to_plain(each) for each in records] for split, records in self.given.items()}

    def records(self, split):
        return iter(self.given[split])

    def describe(self):
        return "a test"


@pytest.fixture
def store(tmp_path):
    def store(clean=None, **splits):
        return prepare(Given(**splits), clean=clean, tokenizer=ByteTokenizer(), tokenizer_key={}, cache_dir=tmp_path)

    return store


def test_every_kind_of_record_has_an_example_here():
    assert {type(each) for each in ONE_OF_EACH} == set(KINDS.values())


@pytest.mark.parametrize("record", ONE_OF_EACH[1:], ids=lambda each: type(each).__name__)
def test_a_record_comes_back_as_it_was_with_the_ids_of_its_texts(store, record):
    examples = store(train=[record] * 3).examples("train")
    assert list(examples) == [record] * 3
    assert [bytes(int(i) - 16 for i in ids).decode() for ids in examples.ids(1)] == list(record.texts())
    expected = sum(len(text.encode()) for text in record.texts())
    np.testing.assert_array_equal(examples.lengths(), [expected] * 3)
    again = pickle.loads(pickle.dumps(examples))
    assert again[2] == record


@given(st.lists(st.tuples(st.text(), st.lists(st.text(max_size=3), max_size=3)), max_size=30))
def test_plain_values_round_trip(rows):
    for text, labels in rows:
        record = LabeledText(text, tuple(labels))
        assert from_plain(LabeledText, to_plain(record)) == record


def test_many_batches_of_records(store, monkeypatch):
    monkeypatch.setattr("llmcli.data.build.CHUNK_RECORDS", 3)
    records = [LabeledText("x" * n, (str(n % 2),)) for n in range(1, 11)]
    prepared = store(train=records, val=records[:2])
    assert list(prepared.examples("train")) == records
    np.testing.assert_array_equal(prepared.examples("train").lengths(), range(1, 11))
    assert prepared.names == ("0", "1")
    assert prepared.manifest["splits"]["train"]["names"] == {"0": 5, "1": 5}
    assert (prepared.count("documents", "train"), prepared.count("characters", "train")) == (10, 55)
    prepared.verify()


def test_cleaning_changes_texts_and_drops_what_it_empties(store):
    records = [
        LabeledText("Yes", ("a",)),
        LabeledText("drop", ("a",)),
        LabeledText("!!", ("a",)),
        LabeledText("", ("a",)),
    ]
    steps = {
        "drop": lambda text: None if text == "drop" else text,
        "marks": lambda text: text.replace("!", ""),
        "lower": lowercase,
    }
    found = list(store(steps, train=records).examples("train"))
    assert found == [LabeledText("yes", ("a",)), LabeledText("", ("a",))]


def test_answers_stand_where_they_are_said_to_after_cleaning():
    record = QuestionAnswer("Which?", "a  b  a  b", ("b",), (9,))
    cleaned = record.with_texts(lambda text: " ".join(text.split()))
    assert cleaned == QuestionAnswer("Which?", "a b a b", ("b",), (6,))
    assert record.with_texts(lambda text: text.replace("b", "")) is None


def test_a_filter_of_whole_texts_does_not_judge_a_short_answer_or_an_empty_context():
    def long(text):
        return text.lower() if len(text) > 9 else None

    asked = QuestionAnswer("Who went home?", "ada stayed. then ada went home", ("ada",), (17,))
    assert asked.with_texts(long) == QuestionAnswer("who went home?", "ada stayed. then ada went home", ("ada",), (17,))
    assert asked.with_texts(lambda text: text if len(text) > 20 else None) is None  # the question is a whole text
    assert MultipleChoice("", "which of them?", ("the first one", "the second one"), 1).with_texts(long) is not None


def test_a_token_that_cleaning_would_empty_keeps_its_place():
    record = TaggedTokens(("Rome", "!"), ("B-LOC", "O"))
    assert record.with_texts(lambda text: text.strip("!").lower()) == TaggedTokens(("rome", "!"), ("B-LOC", "O"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaggedTokens(("a",), ()), "1 tokens but 0 tags"),
        (lambda: QuestionAnswer("q", "abc", ("b",), (0,)), "'b' does not stand at character 0"),
        (lambda: QuestionAnswer("q", "abc", ("c",), (-1,)), "does not stand at character -1"),
        (lambda: MultipleChoice("", "q", ("a",), 1), "choice 1 of 1"),
    ],
)
def test_records_that_contradict_themselves(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_label_that_the_train_split_lacks(store):
    with pytest.raises(
        InputError, match=r"the val split has 'b' \(2 times\), which the train split never has"
    ) as caught:
        store(train=[LabeledText("x", ("a",))], val=[LabeledText("x", ("b",))] * 2)
    assert "data.unseen_labels=skip" in caught.value.hint


def test_running_text_and_examples_are_told_apart(store):
    prepared = store(train=[LabeledText("x", ("a",))])
    with pytest.raises(InputError, match="LabeledText records, not running text"):
        prepared.split("train")
    with pytest.raises(InputError, match="no val split"):
        prepared.examples("val")


def test_a_damaged_column_is_found(store):
    prepared = store(train=[LabeledText("x", ("a",))] * 9)
    (prepared.path / "train.rows").write_bytes(b"short")
    with pytest.raises(InputError, match="prepared data is damaged"):
        store(train=[LabeledText("x", ("a",))] * 9)
