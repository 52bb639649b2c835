import pytest

from llmcli.errors import InputError
from llmcli.tokenizers import byte, char


def test_bytes_of_utf8_are_ids_from_16():
    tokenizer = byte.train([])
    assert tokenizer.encode("A\xe9") == [16 + 0x41, 16 + 0xC3, 16 + 0xA9]
    assert tokenizer.vocab_size == 272
    assert tokenizer.token(16 + 0x41) == "A"
    assert tokenizer.token(16 + 0x0A) == "<0x0A>"


def test_byte_training_does_not_read_the_text():
    def texts():
        raise AssertionError
        yield

    byte.train(texts())


def test_characters_are_sorted_and_others_unknown():
    tokenizer = char.train(["banana\n", "cab"], min_frequency=1)
    assert tokenizer.characters == "\nabcn"
    assert tokenizer.encode("cab\U0010ffff😀z\0") == [19, 17, 18, 1, 1, 1, 1]
    assert tokenizer.unknown("zab😀z") == ["z", "😀"]
    assert tokenizer.decode(tokenizer.encode("banana\n")) == "banana\n"
    assert tokenizer.token(16) == "<U+000A>"


def test_rare_characters_are_left_out():
    assert char.train(["aaab", "bc"], min_frequency=2).characters == "ab"
    with pytest.raises(InputError, match="no character occurs 5 times or more"):
        char.train(["aaab"], min_frequency=5)
    with pytest.raises(InputError, match="no character occurs 1 times or more"):
        char.train([], min_frequency=1)


def test_characters_must_be_distinct():
    with pytest.raises(ValueError, match="distinct"):
        char.CharTokenizer("aa")
