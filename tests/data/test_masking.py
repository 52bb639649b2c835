"""What is hidden of a window: how much, which tokens, as what; the same for the same window."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.data.masking import Masking, special_ids
from llmcli.data.windows import Encoded, EvaluationWindows
from llmcli.errors import InputError
from llmcli.losses import IGNORED
from llmcli.text.segment.chinese import ChineseWords
from llmcli.text.segment.english import EnglishWords
from llmcli.text.segment.whitespace import Whitespace
from llmcli.tokenizers import char, subword, word

PAD, UNK, EOS, MASK, CLS, SEP = 0, 1, 3, 4, 5, 6
T = 64
OPTIONS = {"rate": 0.15, "random": 0.1, "kept": 0.1, "unit": "token", "marks": True}
ENGLISH = "the unhappy children were remembering their extraordinary grandmother, who told wonderful stories.\n" * 30
CHINESE = "我们今天去北京大学参观了一个非常有意思的展览，大家都觉得很高兴。" * 8


@pytest.fixture(scope="module")
def letters():
    return char.train(["abcdefghijklmnopqrstuvwxyz"], min_frequency=1)


@pytest.fixture(scope="module")
def pieces():
    return subword.train(
        [ENGLISH], algorithm="bpe", vocab_size=320, character_coverage=1.0, max_piece_length=4,
        sample_characters=10**6, seed=1,
    )  # fmt: skip


def windows(ids, lengths=None):
    """A batch as `llmcli.data.windows` makes it: labels shifted, padding masked."""
    ids = torch.as_tensor(ids)
    batch = {"ids": ids, "labels": torch.cat((ids[:, 1:], ids[:, :1]), 1), "n_tokens": ids.numel(), "index": 0}
    if lengths is not None:
        mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
        batch |= {"mask": mask, "ids": ids.where(mask, PAD), "labels": batch["labels"].where(mask, IGNORED)}
    return batch


def random_windows(rows=200, vocab_size=42, seed=0):
    return windows(np.random.default_rng(seed).integers(16, vocab_size, (rows, T)))


def before(batch):
    """The ids (B, T) without anything hidden."""
    ids = batch["ids"].flatten()
    ids[batch["places"]] = batch["targets"]
    return ids.view(batch["ids"].shape)


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_the_shares_are_those_of_the_paper(letters, rate):
    batch = Masking(letters, **{**OPTIONS, "rate": rate})(random_windows(), seed=1)
    assert batch["n_tokens"] == len(batch["places"]) == 200 * round(rate * (T - 2))
    shown, targets, n = batch["ids"].flatten()[batch["places"]], batch["targets"], batch["n_tokens"]
    kinds = 26  # of which a random one is the token itself once
    expected = {"mask": 0.8, "itself": 0.1 + 0.1 / kinds, "other": 0.1 * (1 - 1 / kinds)}
    found = {"mask": shown == MASK, "itself": shown == targets}
    found["other"] = ~found["mask"] & ~found["itself"]
    for name, share in expected.items():
        deviation = math.sqrt(n * share * (1 - share))
        assert abs(int(found[name].sum()) - n * share) < 4 * deviation, name
    assert shown[found["other"]].unique().numel() == kinds  # any token, none more than others
    assert shown[found["other"]].min() >= 16


@given(st.lists(st.integers(0, T), min_size=1, max_size=6), st.booleans(), st.floats(0.01, 0.99), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_neither_padding_nor_special_tokens_are_hidden(letters, lengths, marks, rate, seed):
    lengths = [max(1, length) for length in lengths]
    ids = np.random.default_rng(seed).integers(0, 42, (len(lengths), T))  # every special id among them
    ids[ids == PAD] = EOS
    given_batch = windows(ids, lengths)
    batch = Masking(letters, **{**OPTIONS, "rate": rate, "marks": marks})(given_batch, seed)
    hidden = torch.zeros(len(lengths) * T, dtype=torch.bool)
    hidden[batch["places"]] = True
    assert int(hidden.sum()) == batch["n_tokens"] and batch["n_ids"] == sum(lengths)
    assert given_batch["mask"].flatten()[hidden].all()
    assert (batch["targets"] >= 16).all()
    shown = batch["ids"].flatten()[hidden]
    assert ((shown >= 16) | (shown == MASK)).all()
    restored = before(batch)
    if marks:
        assert (restored[:, 0] == torch.where(torch.tensor(lengths) > 1, CLS, SEP)).all()
        assert (restored[torch.arange(len(lengths)), torch.tensor(lengths) - 1] == SEP).all()
    inner = slice(1, -1) if marks else slice(None)
    for row, length in enumerate(lengths):
        assert restored[row, :length][inner].tolist() == given_batch["ids"][row, :length][inner].tolist()
        assert (restored[row, length:] == PAD).all()


def test_the_window_and_the_seed_decide_and_nothing_around_them(letters):
    masking, together = Masking(letters, **OPTIONS), random_windows(rows=6)
    whole = masking(together, seed=3)
    for row in range(6):
        alone = masking({**together, "ids": together["ids"][row : row + 1], "labels": together["labels"][:1]}, seed=3)
        assert torch.equal(alone["ids"][0], whole["ids"][row])
    assert torch.equal(masking(together, seed=3)["ids"], whole["ids"])
    assert not torch.equal(masking(together, seed=4)["ids"], whole["ids"])
    assert whole["ids"][0].ne(together["ids"][0]).nonzero().flatten().tolist() != (
        whole["ids"][1].ne(together["ids"][1]).nonzero().flatten().tolist()
    )


@pytest.mark.parametrize("stride", [16, 5])
def test_validation_hides_the_same_in_batches_of_any_size(shards, letters, stride):
    tokens = shards(np.random.default_rng(0).integers(16, 42, 300))
    found = []
    for size in (1, 4, 7):
        plan = EvaluationWindows(tokens, size=size, seq_len=16, stride=stride, pad_id=0)
        plan = Encoded(plan, Masking(letters, **{**OPTIONS, "marks": False, "rate": 0.5}), seed=5)
        batches = [plan.batch(0, number) for number in range(len(plan))]
        found.append(torch.cat([batch["ids"] for batch in batches]))
        rows = torch.cat([batch["places"] // 16 + number * size for number, batch in enumerate(batches)])
        columns = torch.cat([batch["places"] % 16 for batch in batches])
        places = rows * stride + columns  # in the text
        assert len(places) == len(places.unique())  # overlapping windows share the tokens out
        assert len(places) == pytest.approx(150, abs=0.1 * 300)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def units_of(tokenizer, ids, spans):
    """Word number -> the places of its tokens, by decoding what stands before each token."""
    owner = {}
    for place in range(len(ids)):
        text = tokenizer.decode(ids[: place + 1])
        piece = tokenizer.decode([ids[place]])
        first = len(text) - len(piece.lstrip())
        word_number = next((i for i, (start, end) in enumerate(spans) if start <= first < end), None)
        owner.setdefault(("blank", place) if not piece.strip() else word_number, []).append(place)
    return owner


@pytest.mark.parametrize("kind", ["sub-words", "letters", "chinese"])
def test_words_are_hidden_whole(pieces, kind):
    text, unit, segmenter, tokenizer = ENGLISH, "word", EnglishWords(contractions="whole"), pieces
    if kind == "letters":
        tokenizer = char.train([ENGLISH], min_frequency=1)
    if kind == "chinese":
        text, unit, segmenter = CHINESE, "jieba", ChineseWords(hmm=True, user_words=())
        tokenizer = char.train([CHINESE], min_frequency=1)
    ids = tokenizer.encode(text)[: 3 * T]
    masking = Masking(tokenizer, **{**OPTIONS, "unit": unit, "marks": False, "rate": 0.3})
    split = 0
    for start in range(0, len(ids), T):
        row = ids[start : start + T]
        owner = units_of(tokenizer, row, segmenter.spans(tokenizer.decode(row)))
        assert max(map(len, owner.values())) > 1
        for seed in range(5):
            batch = masking(windows([row]), seed)
            hidden = set(batch["places"].tolist())
            assert len(hidden) <= round(0.3 * len(row))
            for places in owner.values():
                assert hidden.issuperset(places) or not hidden.intersection(places)
            single = Masking(tokenizer, **{**OPTIONS, "marks": False, "rate": 0.3})(windows([row]), seed)["places"]
            split += any(0 < len(set(single.tolist()).intersection(places)) < len(places) for places in owner.values())
    assert split  # single tokens do not keep words together


def test_a_tokenizer_of_words_needs_no_rule():
    tokenizer = word.train(
        [ENGLISH], segmenter=Whitespace(), lower_case=False, vocab_size=None, min_frequency=1, unk_text=None
    )
    row = windows([tokenizer.encode(ENGLISH)[:T]])
    token, whole = (Masking(tokenizer, **{**OPTIONS, "unit": unit})(row, 1) for unit in ("token", "word"))
    assert torch.equal(token["ids"], whole["ids"])


def test_something_is_hidden_of_every_window_that_has_something(letters):
    masking = Masking(letters, **{**OPTIONS, "rate": 0.01})
    assert masking(windows([[16, 17, 18]]), 1)["places"].tolist() == [1]
    assert masking(windows([[16, 17]]), 1)["n_tokens"] == 0  # the marks leave nothing
    word_unit = Masking(letters, **{**OPTIONS, "rate": 0.01, "unit": "word", "marks": False})
    assert word_unit(windows([[16, 17, 18]]), 1)["n_tokens"] == 3  # one word, longer than its share


def test_special_ids_are_those_that_stand_for_no_text(letters):
    assert np.flatnonzero(special_ids(letters)).tolist() == list(range(16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, r"task.rate \(0.0\) must be above 0 and below 1"),
        ({"rate": 1.0}, r"task.rate \(1.0\)"),
        ({"random": 0.6, "kept": 0.5}, r"task.random \(0.6\) and task.kept \(0.5\) must be shares that sum to 1"),
        ({"kept": -0.1}, r"task.kept \(-0.1\)"),
        ({"unit": "syllable"}, r"task.unit \(syllable\) must be one of token, word, jieba"),
    ],
)
def test_what_is_refused(letters, changes, message):
    with pytest.raises(InputError, match=message):
        Masking(letters, **{**OPTIONS, **changes})


@pytest.mark.parametrize(("lacks", "message"), [("mask_id", "with a <mask> token"), ("sep_id", "no <cls> and <sep>")])
def test_a_tokenizer_without_the_special_tokens_is_refused(letters, monkeypatch, lacks, message):
    monkeypatch.setattr(type(letters), lacks, None)
    with pytest.raises(InputError, match=message):
        Masking(letters, **OPTIONS)
