"""What every tokenizer promises, checked on each of them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmcli.errors import CheckpointError, InputError
from llmcli.text.segment.chinese import ChineseWords
from llmcli.text.segment.english import EnglishWords
from llmcli.text.segment.whitespace import Whitespace
from llmcli.tokenizers import byte, char, store, subword, word
from llmcli.tokenizers.base import RESERVED

CORPUS = (
    'def area(width, height):\n    """The area of a rectangle."""\n    return width * height\n\n\n'
    "It was the best of times, it was the worst of times. Café naïve 你好，世界。 😀\r\n\ttab  and   spaces  \n"
) * 20


def train_subword(texts, **changes):
    settings = {
        "algorithm": "bpe",
        "vocab_size": 400,
        "character_coverage": 0.9995,
        "max_piece_length": 16,
        "sample_characters": 1_000_000,
        "seed": 1,
    }
    return subword.train(texts, **settings | changes)


def train_word(texts, **changes):
    settings = {
        "segmenter": EnglishWords(contractions="treebank"),
        "lower_case": False,
        "vocab_size": None,
        "min_frequency": 1,
        "unk_text": None,
    }
    return word.train(texts, **settings | changes)


TOKENIZERS = {
    "byte": byte.train([CORPUS]),
    "char": char.train([CORPUS], min_frequency=1),
    "words": train_word([CORPUS]),
    "whitespace": train_word([CORPUS], segmenter=Whitespace(), unk_text="<unk>"),
    "jieba": train_word([CORPUS], segmenter=ChineseWords(hmm=False, user_words=[])),
    "bpe": train_subword([CORPUS]),
    "unigram": train_subword([CORPUS], algorithm="unigram"),
}
every = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())
exact = pytest.mark.parametrize(
    "tokenizer",
    [t for t in TOKENIZERS.values() if t.exact],
    ids=[name for name, t in TOKENIZERS.items() if t.exact],
)
# All of Unicode, and much of what goes wrong: spaces, the marks of SentencePiece, names of special ids.
texts = st.lists(
    st.sampled_from(
        [" ", "  ", "\n", "\t", "\r\n", "\0", "\u2581", "\u2585", "\ufffd", "<eos>", "<0x41>", "the", "你", "😀"]
    )
    | st.text(),
    max_size=12,
).map("".join)


@every
def test_reserved_ids_come_first(tokenizer):
    assert [tokenizer.token(i) for i in range(len(RESERVED))] == list(RESERVED)
    ids = [getattr(tokenizer, f"{name}_id") for name in ("pad", "unk", "bos", "eos", "mask", "cls", "sep")]
    assert ids == list(range(7))
    assert tokenizer.vocab_size > len(RESERVED)
    names = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    assert all(name.isprintable() and name for name in names)
    assert len(set(names)) == len(names)


@every
def test_reserved_ids_have_no_text(tokenizer):
    silent = [i for i in range(len(RESERVED)) if i != tokenizer.unk_id]
    assert tokenizer.decode(silent) == ""
    ids = tokenizer.encode("It was")
    mixed = [tokenizer.bos_id, *[i for one in ids for i in (one, tokenizer.pad_id)], tokenizer.eos_id]
    assert tokenizer.decode(mixed) == tokenizer.decode(ids) == "It was"


@exact
@given(text=texts)
@example(text=" leading and trailing  ")
@example(text="\u2581 \u2581\u2581 a\u2581b")
@example(text="\U0010ffff\ufffe\ufeff")
def test_every_text_comes_back_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.unknown(text) == []


@every
@given(text=texts)
def test_text_never_gives_a_special_id(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(i == tokenizer.unk_id or i >= len(RESERVED) for i in ids)
    assert all(0 <= i < tokenizer.vocab_size and type(i) is int for i in ids)


@every
@pytest.mark.parametrize("name", RESERVED)
def test_the_name_of_a_special_id_is_plain_text(tokenizer, name):
    if name == "<unk>" and tokenizer is TOKENIZERS["whitespace"]:
        assert tokenizer.encode(name) == [tokenizer.unk_id]  # asked for by unk_text
        return
    assert all(i == tokenizer.unk_id or i >= len(RESERVED) for i in tokenizer.encode(name))


@every
@given(batch=st.lists(texts, max_size=5))
def test_a_batch_is_encoded_as_each_text_alone(tokenizer, batch):
    assert tokenizer.encode_batch(batch) == [tokenizer.encode(text) for text in batch]


@every
@given(text=texts)
def test_unknown_names_what_becomes_unk(tokenizer, text):
    missing = tokenizer.unknown(text)
    assert bool(missing) == (tokenizer.unk_id in tokenizer.encode(text.replace("<unk>", "")))
    assert all(tokenizer.encode(item) == [tokenizer.unk_id] for item in missing)


@every
def test_nothing_comes_from_nothing(tokenizer):
    assert tokenizer.encode("") == []
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.decode([]) == ""


@every
def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    store.save(tokenizer, tmp_path / "tokenizer")
    loaded = store.load(tmp_path / "tokenizer")
    assert type(loaded) is type(tokenizer)
    text = CORPUS + "Zoë\0\u2581ß"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.vocab_size == tokenizer.vocab_size
    ids = list(range(tokenizer.vocab_size))
    assert loaded.decode(ids) == tokenizer.decode(ids)
    assert store.to_files(loaded) == store.to_files(tokenizer)
    assert store.fingerprint(loaded) == store.fingerprint(tokenizer)


def test_fingerprints_differ():
    assert len({store.fingerprint(tokenizer) for tokenizer in TOKENIZERS.values()}) == len(TOKENIZERS)


@exact
def test_a_lone_surrogate_is_refused_with_its_place(tokenizer):
    with pytest.raises(InputError, match=r"U\+D83D at character 3"):
        tokenizer.encode("abc\ud83d")
    with pytest.raises(InputError, match=r"U\+D83D at character 3"):
        tokenizer.encode_batch(["fine", "abc\ud83d"])


@exact
def test_an_unfinished_character_reads_as_the_replacement_character(tokenizer):
    ids = tokenizer.encode("ab\u4e03")
    assert tokenizer.decode(ids[:-1]) == "ab\ufffd"


@every
@pytest.mark.parametrize("damage", [b"", b"garbage", b"{}", b'{"words": 3}', b"[1]"])
def test_a_damaged_file_is_named(tokenizer, damage):
    for name in tokenizer.files():
        with pytest.raises(CheckpointError, match=name):
            store.from_files({**store.to_files(tokenizer), name: damage})
        missing = store.to_files(tokenizer)
        del missing[name]
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            store.from_files(missing)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "tokenizer.json is damaged"),
        (b'{"format": 1}', "tokenizer.json is damaged"),
        (b'{"format": 2, "class": "llmcli.tokenizers.byte.ByteTokenizer"}', "format 2"),
        (b'{"format": 1, "class": "os.system"}', "os.system, which is not in llmcli.tokenizers"),
        (b'{"format": 1, "class": "llmcli.tokenizers.store.Path"}', "not a tokenizer"),
        (b'{"format": 1, "class": "llmcli.tokenizers.store.importlib.import_module"}', "not in llmcli.tokenizers"),
        (b'{"format": 1, "class": "llmcli.tokenizers.byte.train"}', "not a tokenizer"),
        (b'{"format": 1, "class": "llmcli.tokenizers.morse.MorseTokenizer"}', "unknown class"),
    ],
)
def test_only_tokenizers_of_this_package_are_loaded(header, message):
    with pytest.raises(CheckpointError, match=message):
        store.from_files({"tokenizer.json": header})


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere is not a tokenizer folder"):
        store.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing"):
        store.load(tmp_path)
