import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli import config
from llmcli.data.prepare import _train_key
from llmcli.errors import CheckpointError, InputError
from llmcli.text.segment.chinese import ChineseWords
from llmcli.text.segment.english import EnglishWords
from llmcli.text.segment.whitespace import Whitespace
from llmcli.tokenizers import store, word

ENGLISH, CHINESE = EnglishWords(contractions="treebank"), ChineseWords(hmm=True, user_words=["量子罐头"])


def train(texts, *, segmenter=ENGLISH, lower_case=False, vocab_size=None, min_frequency=1, unk_text=None):
    return word.train(
        texts,
        segmenter=segmenter,
        lower_case=lower_case,
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        unk_text=unk_text,
    )


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


@given(text=st.text(st.sampled_from("他们买了量子罐头，真好！“吃”（不）吗？《书》——"), min_size=1, max_size=30))
def test_chinese_is_put_together_without_spaces(text):
    tokenizer = train([text], segmenter=CHINESE)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_white_space_split_joins_with_single_spaces():
    tokenizer = train(["a ,  b\nc"], segmenter=Whitespace())
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
    tokenizer = train([corpus], segmenter=Whitespace(), unk_text="<unk>")
    assert sorted(tokenizer.words) == ["<eos>", "=", "of", "the"]
    assert tokenizer.encode("the <unk> king") == [tokenizer.encode("the")[0], 1, 1]
    assert tokenizer.decode(tokenizer.encode("the <unk> king")) == "the <unk> <unk>"
    assert tokenizer.unknown("the <unk> king") == ["king"]
    plain = train([corpus], segmenter=Whitespace())
    assert plain.encode("<unk>")[0] >= 16
    assert plain.decode([1]) == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 16}, r"vocab_size \(16\) must be above the 16 reserved ids"),
        ({"min_frequency": 9}, "no word occurs 9 times or more"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        train(["some words"], **settings)


def test_the_segmenter_is_saved_with_the_words():
    tokenizer = train(["他买了量子罐头"], segmenter=CHINESE)
    files = store.to_files(tokenizer)
    state = json.loads(files["words.json"])["segmenter"]
    assert state == {"class": "llmcli.text.segment.chinese.ChineseWords", "hmm": True, "user_words": ["量子罐头"]}
    loaded = store.from_files(files)
    assert loaded.decode(loaded.encode("量子罐头")) == "量子罐头"


def test_files_of_before_there_were_segmenters():
    state = {"split": "whitespace", "lower_case": False, "unk_text": "<unk>", "words": ["the", "don't"]}
    files = store.to_files(train(["a"], segmenter=Whitespace()))
    old = store.from_files({**files, "words.json": json.dumps(state).encode()})
    assert old.encode("don't the <unk>") == [17, 16, 1]
    with pytest.raises(CheckpointError, match=r"cut by a rule \(words\) that this version does not have"):
        store.from_files({**files, "words.json": json.dumps({**state, "split": "words"}).encode()})


def test_a_package_that_is_missing_is_named_and_the_file_is_not_called_damaged(monkeypatch):
    files = store.to_files(train(["他"], segmenter=CHINESE))
    monkeypatch.setitem(__import__("sys").modules, "rjieba", None)
    with pytest.raises(
        CheckpointError, match="cannot be rebuilt: Chinese word segmentation needs the package"
    ) as caught:
        store.from_files(files)
    assert caught.value.hint == "pip install 'llmcli[zh]'"


@pytest.mark.parametrize("segmenter", [3, {}, {"class": "os.system"}, {"class": "llmcli.text.segment.base.from_state"}])
def test_no_other_code_is_run_by_a_file(segmenter):
    files = store.to_files(train(["a"]))
    state = {"segmenter": segmenter, "lower_case": False, "unk_text": None, "words": ["a"]}
    with pytest.raises(CheckpointError, match=r"words.json is damaged"):
        store.from_files({**files, "words.json": json.dumps(state).encode()})


def test_the_words_of_a_dictionary_file_belong_to_the_key_of_prepared_data(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("量子罐头\n", "utf-8")
    cfg = config.compose("train", ["tokenizer=jieba", f"tokenizer.segmenter.user_dictionary={path}"])
    config.validate(cfg.tokenizer)
    keys = [_train_key(config.build(cfg.tokenizer), config.resolved(cfg.tokenizer))]
    path.write_text("云端猫\n", "utf-8")
    keys.append(_train_key(config.build(cfg.tokenizer), config.resolved(cfg.tokenizer)))
    assert [key["segmenter"]["user_words"] for key in keys] == [["量子罐头"], ["云端猫"]]
