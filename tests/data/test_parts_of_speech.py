"""Text without labels, with a tagger's parts of speech for labels."""

import sys

import pytest

from llmcli import config
from llmcli.data.records import TaggedTokens
from llmcli.errors import InputError
from llmcli.text import english_tags


def records(option, path, *overrides):
    cfg = config.compose("train", [f"data={option}", f"data.path={path}", "data.val_fraction=0", *overrides])
    config.validate(cfg.data)
    return list(config.build(cfg.data).records("train"))


def test_chinese_sentences_are_tagged_as_jieba_does(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("我们学习。天气很好！\n\n  \n量子罐头\n", "utf-8")
    assert records("pos_zh", path, 'data.reader.user_words=["量子罐头 nz"]') == [
        TaggedTokens(("我们", "学习", "。"), ("r", "v", "x")),
        TaggedTokens(("天气", "很", "好", "！"), ("n", "zg", "a", "x")),
        TaggedTokens(("量子罐头",), ("nz",)),
    ]
    path.write_bytes("我们学习。".encode("gb18030"))
    assert records("pos_zh", path, "data.reader.encoding=auto")[0].tokens == ("我们", "学习", "。")


def test_english_sentences_are_tagged_with_the_tags_of_the_national_corpus(tmp_path):
    pytest.importorskip("HanTa")
    path = tmp_path / "text.txt"
    path.write_text("He isn't here. Two dogs ran!\n", "utf-8")
    assert records("pos_en", path) == [
        TaggedTokens(("He", "is", "n't", "here", "."), ("PNP", "VBZ", "XX0", "AV0", "PUN")),
        TaggedTokens(("Two", "dogs", "ran", "!"), ("CRD", "NN2", "VVD", "PUN")),
    ]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "HanTa", None)
    english_tags._loaded.cache_clear()
    with pytest.raises(InputError, match="tagging English parts of speech needs the package HanTa") as caught:
        english_tags.tagged("a word")
    assert caught.value.hint == "pip install 'llmcli[tags]'"
