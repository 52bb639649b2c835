import io
import random

import pytest
import sentencepiece

from llmcli.errors import InputError
from llmcli.tokenizers import subword

CODE = "class Shape:\n    def area(self):\n        return self.width * self.height\n\n" * 30
algorithms = pytest.mark.parametrize("algorithm", ["bpe", "unigram"])


def train(texts, **changes):
    settings = {
        "algorithm": "bpe",
        "vocab_size": 400,
        "character_coverage": 0.9995,
        "max_piece_length": 16,
        "sample_characters": 1_000_000,
        "seed": 1,
    }
    return subword.train(texts, **settings | changes)


def prose(count, seed=0):
    draw = random.Random(seed)
    letters = "etaoinshrdlu"
    words = ["".join(draw.choices(letters, k=draw.randint(1, 9))) for _ in range(300)]
    return " ".join(draw.choice(words) for _ in range(count))


@algorithms
def test_the_vocabulary_has_the_size_asked_for(algorithm):
    assert train([prose(4000)], algorithm=algorithm, vocab_size=350).vocab_size == 350


@algorithms
@pytest.mark.parametrize("text", ["a", "hello", "你好", " ", "\n\n x"])
def test_a_text_too_small_for_the_vocabulary_gives_a_smaller_one(algorithm, text):
    tokenizer = train([text], algorithm=algorithm, vocab_size=4096)
    assert 272 < tokenizer.vocab_size < 300
    assert tokenizer.decode(tokenizer.encode(text + "!")) == text + "!"


@algorithms
def test_more_characters_than_units_become_bytes(algorithm):
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
    tokenizer = train(["的一是" * 500 + many], algorithm=algorithm, vocab_size=300, character_coverage=1.0)
    assert tokenizer.vocab_size <= 300
    assert len(tokenizer.encode("的")) == 1
    assert len(tokenizer.encode(many[-1])) == 3


def test_rare_characters_become_bytes_as_coverage_says():
    text = "ab" * 500 + "é"
    assert len(train([text], character_coverage=1.0).encode("é")) == 1
    assert len(train([text], character_coverage=0.99).encode("é")) == 2


@algorithms
def test_training_repeats_itself(algorithm):
    pieces = [prose(500, seed) for seed in range(20)]
    settings = {"algorithm": algorithm, "sample_characters": 20_000}
    first = train(iter(pieces), **settings)
    assert train(iter(pieces), **settings).files() == first.files()
    assert train(iter(pieces), seed=2, **settings).files() != first.files()


def test_the_sample_is_bounded_uniform_and_in_order():
    texts = [f"{number:04d}" * 1024 for number in range(1000)]  # one block each
    blocks = subword._sample(iter(texts), 100 * 4096, seed=3)
    assert len(blocks) == 100
    numbers = [int(block[:4]) for block in blocks]
    assert numbers == sorted(set(numbers))
    assert sum(number < 500 for number in numbers) == pytest.approx(50, abs=20)
    assert subword._sample(["short"], 2, seed=0) == ["short"]


def test_indentation_and_line_ends_are_units():
    tokenizer = train([CODE])
    assert len(tokenizer.encode("        ")) <= 2
    assert len(tokenizer.encode(":\n")) == 1


def test_max_piece_length_limits_units():
    tokenizer = train([CODE], max_piece_length=3)
    assert max(len(tokenizer.decode([i])) for i in range(272, tokenizer.vocab_size)) == 3


@algorithms
def test_encodes_as_plain_sentencepiece_does(algorithm):
    tokenizer = train([CODE, prose(1000)], algorithm=algorithm)
    bare = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.files()["sentencepiece.model"])
    texts = [CODE, prose(50, 7), "", "naïve 你好"]
    assert tokenizer.encode_batch(texts) == bare.encode(texts)
    assert [tokenizer.decode(ids) for ids in bare.encode(texts)] == [bare.decode(ids) for ids in bare.encode(texts)]


def test_the_mark_for_a_space_is_not_taken_for_one():
    tokenizer = train([CODE])
    assert tokenizer.encode("\u2581") == [16 + 0xE2, 16 + 0x96, 16 + 0x81]
    assert tokenizer.encode("self\u2581self") != tokenizer.encode("self self")


def test_text_with_marks_of_the_trainer_trains():
    tokenizer = train(["ab\0cd\u2581ef\u2585" * 100])
    assert tokenizer.decode(tokenizer.encode("ab\0cd\u2581ef\u2585")) == "ab\0cd\u2581ef\u2585"


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        (["text"], {"algorithm": "wordpiece"}, r"algorithm .'wordpiece'. must be one of bpe, unigram"),
        (["text"], {"vocab_size": 272}, r"vocab_size \(272\) must be above 272"),
        ([], {}, "no text to learn from"),
        (["", "\0", "\n"], {}, "no text to learn from"),
    ],
)
def test_impossible_settings_are_refused(texts, settings, message):
    with pytest.raises(InputError, match=message):
        train(texts, **settings)


@algorithms
@pytest.mark.parametrize("vocab_size", [273, 274, 280])
def test_the_smallest_vocabularies_work(algorithm, vocab_size):
    assert train([CODE], algorithm=algorithm, vocab_size=vocab_size).vocab_size <= vocab_size


def test_another_model_is_refused():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([CODE]), model_writer=model, vocab_size=30, minloglevel=2, hard_vocab_limit=False
    )
    with pytest.raises(ValueError, match="does not start with the reserved ids"):
        subword.SubwordTokenizer(model.getvalue())
