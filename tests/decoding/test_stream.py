import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmcli.decoding.stream import TextStream, cut
from llmcli.errors import InputError
from llmcli.text.segment.english import EnglishWords
from llmcli.text.segment.whitespace import Whitespace
from llmcli.tokenizers import byte, char, subword, word

CORPUS = "It's the best (and worst) of times:\n    the 你好，世界 café 😀 abab aabab\n\n" * 30


def train_subword(algorithm):
    return subword.train(
        [CORPUS],
        algorithm=algorithm,
        vocab_size=350,
        character_coverage=0.98,
        max_piece_length=16,
        sample_characters=10**6,
        seed=1,
    )


def train_word(segmenter):
    settings = {"lower_case": False, "vocab_size": None, "min_frequency": 1, "unk_text": "<unk>"}
    return word.train([CORPUS], segmenter=segmenter, **settings)


TOKENIZERS = {
    "byte": byte.train([]),
    "char": char.train([CORPUS], min_frequency=1),
    "bpe": train_subword("bpe"),
    "unigram": train_subword("unigram"),
    "words": train_word(EnglishWords(contractions="treebank")),
    "whitespace": train_word(Whitespace()),
}
every = pytest.mark.parametrize("name", TOKENIZERS)
stops = st.lists(st.text("ab \ufffd你", min_size=1, max_size=5), max_size=3)
texts = st.lists(st.sampled_from(["ab", "a", "b", " ", "\ufffd", "你", "😀", "the", "\n"]) | st.text(), max_size=40)


def stream_out(tokenizer, ids, stop):
    """What came out, and how much of it was out before `finish`."""
    stream = TextStream(tokenizer, stop)
    pushed = [stream.push(i) for i in ids]
    return pushed, stream.finish(), stream


def check(tokenizer, ids, stop):
    pushed, rest, stream = stream_out(tokenizer, ids, stop)
    whole = tokenizer.decode(ids)
    assert "".join(pushed) + rest == cut(whole, stop)
    assert stream.stopped == any(item in whole for item in stop)


@every
@given(data=st.data(), stop=stops)
def test_any_ids_stream_to_what_they_decode_to(name, data, stop):
    tokenizer = TOKENIZERS[name]
    # Broken UTF-8 is likely here: any order of byte pieces, with special ids between them.
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=120))
    check(tokenizer, ids, stop)


@every
@given(parts=texts, stop=stops)
@example(parts=["\u2581", " ", "a" * 100, "😀" * 40], stop=[])
def test_text_streams_to_itself(name, parts, stop):
    tokenizer = TOKENIZERS[name]
    check(tokenizer, tokenizer.encode("".join(parts)), stop)


@given(data=st.data())
def test_bytes_near_the_edges_of_utf8(data):
    edges = st.sampled_from([0x41, 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xED, 0x9F, 0xF0, 0x90, 0xF4, 0x8F, 0xFF])
    ids = [16 + b for b in data.draw(st.lists(edges, max_size=150))]
    check(TOKENIZERS["byte"], ids, [])
    check(TOKENIZERS["bpe"], ids, [])


@pytest.mark.parametrize("name", ["byte", "char", "bpe", "unigram"])
def test_text_comes_as_soon_as_it_is_final(name):
    tokenizer = TOKENIZERS[name]
    text = "the 你好 😀 best"
    stream = TextStream(tokenizer)
    ids = tokenizer.encode(text)
    out = ""
    for count, index in enumerate(ids, start=1):
        out += stream.push(index)
        whole = tokenizer.decode(ids[:count])
        assert out == whole.removesuffix("\ufffd")


def test_an_unfinished_character_becomes_the_replacement_character_at_the_end():
    ids = TOKENIZERS["byte"].encode("a😀")
    assert stream_out(TOKENIZERS["byte"], ids[:-1], [])[:2] == (["a", "", "", ""], "\ufffd")


def test_a_stop_string_is_never_shown_in_part():
    tokenizer = TOKENIZERS["byte"]
    pushed, rest, stream = stream_out(tokenizer, tokenizer.encode("xENyENDz"), ["END"])
    assert pushed == ["x", "", "", "ENy", "", "", "", ""]
    assert rest == "" and stream.stopped
    pushed, rest, stream = stream_out(tokenizer, tokenizer.encode("xEN"), ["END"])
    assert (pushed, rest, stream.stopped) == (["x", "", ""], "EN", False)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two", [], "one two"),
        ("one two", ["two", "one"], ""),
        ("abcd", ["bcd", "c"], "ab"),  # "c" is complete first
        ("abcd", ["c", "bc"], "a"),  # both end together: the longer one
        ("aab", ["ab"], "a"),
    ],
)
def test_the_first_complete_stop_string_cuts(text, stop, expected):
    assert cut(text, stop) == expected
    tokenizer = TOKENIZERS["byte"]
    check(tokenizer, tokenizer.encode(text), stop)
    check(TOKENIZERS["bpe"], TOKENIZERS["bpe"].encode(text), stop)


@every
def test_the_cost_of_an_id_does_not_grow_with_the_text(name, monkeypatch):
    tokenizer = TOKENIZERS[name]
    longest = 0
    decode = tokenizer.decode

    def measured(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return decode(ids)

    monkeypatch.setattr(tokenizer, "decode", measured)
    stream = TextStream(tokenizer, ["never"])
    anything = random.Random(0).choices(range(tokenizer.vocab_size), k=2000)
    ids = [*tokenizer.encode(CORPUS), *[tokenizer.pad_id] * 100, *tokenizer.encode("😀 你好 " * 50), *anything]
    for index in [*ids, *anything[:1] * 200]:
        stream.push(index)
    assert longest < 40


def test_an_empty_stop_string_is_refused():
    with pytest.raises(InputError, match="a stop string is empty"):
        TextStream(TOKENIZERS["byte"], ["x", ""])
