import pytest

from llmcli.errors import InputError
from llmcli.tokenizers import word


def train(texts, *, split="words", lower_case=False, vocab_size=None, min_frequency=1, unk_text=None):
    return word.train(
        texts,
        split=split,
        lower_case=lower_case,
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        unk_text=unk_text,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop-now, x_1!", ["Don", "'", "t", "stop", "-", "now", ",", "x", "_", "1", "!"]),
        ("你好，world。3个", ["你", "好", "，", "world", "。", "3", "个"]),
        ("naïve Über  straße\n\t2024", ["naïve", "Über", "straße", "2024"]),
        ("カナ かな 한국어", ["カ", "ナ", "か", "な", "한국어"]),
    ],
)
def test_words_are_runs_of_letters_and_digits_marks_and_cjk_characters(text, words):
    assert word.split_text(text, "words", lower_case=False) == words


def test_white_space_alone_splits_otherwise():
    assert word.split_text(" Don't  stop,\nnow ", "whitespace", lower_case=False) == ["Don't", "stop,", "now"]


@pytest.mark.parametrize(
    "text",
    [
        "Don't stop (now), x_1/2: 50% of it!",
        "well-known “quotes” and [brackets] {braces}",
        "你好，世界。你好world",
        "it costs $5, he said.",
    ],
)
def test_natural_text_is_put_together_as_it_was(text):
    tokenizer = train([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_white_space_split_joins_with_single_spaces():
    tokenizer = train(["a ,  b\nc"], split="whitespace")
    assert tokenizer.decode(tokenizer.encode("a ,  b\nc")) == "a , b c"


def test_the_vocabulary_is_by_frequency_then_alphabet():
    tokenizer = train(["b a c a b d"])
    assert tokenizer.words == ["a", "b", "c", "d"]
    assert train(["b a c a b d"], vocab_size=19).words == ["a", "b", "c"]
    assert train(["b a c a b d"], min_frequency=2).words == ["a", "b"]
    assert train(["B b A"], lower_case=True).words == ["b", "a"]
    assert train(["B b A"], lower_case=True).encode("b B a") == [16, 16, 17]


def test_unk_text_is_the_unknown_id_and_reads_as_itself():
    corpus = "the <unk> of <unk> \n = the <eos> = \n"
    tokenizer = train([corpus], split="whitespace", unk_text="<unk>")
    assert sorted(tokenizer.words) == ["<eos>", "=", "of", "the"]
    assert tokenizer.encode("the <unk> king") == [tokenizer.encode("the")[0], 1, 1]
    assert tokenizer.decode(tokenizer.encode("the <unk> king")) == "the <unk> <unk>"
    assert tokenizer.unknown("the <unk> king") == ["king"]
    plain = train([corpus], split="whitespace")
    assert plain.encode("<unk>")[0] >= 16
    assert plain.decode([1]) == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "letters"}, "split .'letters'. must be one of whitespace, words"),
        ({"vocab_size": 16}, r"vocab_size \(16\) must be above the 16 reserved ids"),
        ({"min_frequency": 9}, "no word occurs 9 times or more"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        train(["some words"], **settings)
