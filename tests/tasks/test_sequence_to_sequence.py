"""task=sequence_to_sequence: what a pair becomes, its loss, its batches, and texts that no batch changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmcli.data.example_batches import EncodeRows, collate
from llmcli.data.records import TextPair
from llmcli.data.samplers import Shuffled, TrainingBatches
from llmcli.decoding.beam import Beam
from llmcli.decoding.generate import AT_ONCE, generate
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError
from llmcli.losses import IGNORED
from llmcli.models.seq2seq_transformer import Seq2SeqTransformer
from llmcli.tasks.sequence_to_sequence import SequenceToSequence
from llmcli.tokenizers.char import CharTokenizer

CHARS = CharTokenizer("abcdefgh")
BOS, EOS, LIMIT = CHARS.bos_id, CHARS.eos_id, 12
PAIRS = [("abc", "cba"), ("h", "hhhhh"), ("abcdefgh", "a"), ("dd", "d")]
GREEDY = Greedy(penalties=Penalties(repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=0))
BEAM = Beam(beams=3, n_best=3, length_penalty="gnmt", alpha=1.0, early_stopping=False)


def make(**changes):
    torch.manual_seed(0)
    model = Seq2SeqTransformer(
        vocab_size=CHARS.vocab_size, max_seq_len=LIMIT, d_model=16, n_encoder_layers=1, n_decoder_layers=1, n_heads=2,
        d_ff=None, norm="pre", positions="sinusoidal", share_embeddings=True, tie_embeddings=False, dropout=0.0,
    )  # fmt: skip
    with torch.no_grad():  # as they begin, tied weights make every text repeat its first token
        for weight in model.parameters():
            weight.add_(0.4 * torch.randn_like(weight))
    settings = {"causal": True, "bos_id": BOS, "eos_id": EOS, "label_smoothing": 0.0}
    return SequenceToSequence(model=model, **{**settings, **changes}).eval()


def encoded(*texts):
    return [np.array(CHARS.encode(text), np.uint16) for text in texts]


def batch(task, pairs=PAIRS):
    encode = task.encoder(CHARS)
    rows = [row for pair in pairs for row in encode.rows(TextPair(*pair), encoded(*pair), LIMIT)]
    return collate(rows, encode.pad)


def test_what_a_pair_becomes():
    encode = make().encoder(CHARS)
    assert isinstance(encode, EncodeRows)
    [row] = encode.rows(TextPair("abc", "de"), encoded("abc", "de"), LIMIT)
    a, b, c, d, e = CHARS.encode("abcde")
    assert row["ids"].tolist() == [a, b, c, EOS]
    assert row["target"].tolist() == [BOS, d, e]
    assert row["labels"].tolist() == [d, e, EOS]
    assert row["n_tokens"] == 3


def test_each_side_is_cut_on_its_own_and_a_target_that_is_cut_does_not_seem_to_end():
    encode = make().encoder(CHARS)
    [row] = encode.rows(TextPair("abcdef", "abcdef"), encoded("abcdef", "abcdef"), 4)
    assert row["ids"].tolist() == [*CHARS.encode("abc"), EOS]
    assert row["target"].tolist() == [BOS, *CHARS.encode("abc")]
    assert row["labels"].tolist() == CHARS.encode("abcd")
    [whole] = encode.rows(TextPair("abc", "abc"), encoded("abc", "abc"), 4)
    assert whole["labels"].tolist() == [*CHARS.encode("abc"), EOS]


def test_padding_has_no_label_and_only_the_source_has_a_mask():
    found = batch(make())
    assert found["ids"].shape == (4, 9) and found["target"].shape == found["labels"].shape == (4, 6)
    assert found["mask"].sum(1).tolist() == [4, 2, 9, 3]
    assert ((found["labels"] != IGNORED).sum(1)).tolist() == [4, 6, 2, 2]
    assert found["n_tokens"] == 14 and found["n_ids"] == 18


def test_batches_count_the_longer_side():
    encode = make().encoder(CHARS)
    lengths = np.array([len(text) for pair in PAIRS for text in pair])
    first = np.arange(0, len(lengths), 2)
    sizes = encode.sizes(lengths, first, None)
    assert sizes.longest.tolist() == [4, 6, 9, 3]
    assert sizes.ids.tolist() == [8, 8, 11, 5] and sizes.rows.tolist() == [1] * 4
    assert encode.sizes(lengths, first, 5).longest.tolist() == [4, 5, 5, 3]
    draw = np.random.default_rng(0)
    sides = draw.integers(1, 40, (300, 2))
    sizes = encode.sizes(sides.flatten(), np.arange(0, 600, 2), None)
    batches = TrainingBatches(Shuffled(np.arange(300), seed=1), sizes.longest, size=64, max_tokens=200, pool=5, seed=1)
    for number in range(len(batches)):
        chosen, _ = batches.numbers(0, number)
        assert len(chosen) * (sides[chosen] + 1).max() <= 200  # of each side with its padding


def test_the_loss_is_that_of_the_target_alone():
    task = make()
    given = batch(task)
    logits = task.head.logits(task.model(given["ids"], given["mask"], given["target"]))
    logprobs = logits.log_softmax(-1)
    real = given["labels"] != IGNORED
    expected = -logprobs.gather(2, given["labels"].clamp(min=0)[..., None])[..., 0][real].sum()
    for stage in ("val", "train"):
        result = task._step(given, stage)
        assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert (result.n, result.text) == (14, 18 + 14)
    assert task._step(given, "val").sums["correct"] == (logits.argmax(-1) == given["labels"])[real].sum()


def test_the_batch_changes_nothing():
    task = make()
    together = task._step(batch(task), "val").loss.item()
    alone = math.fsum(task._step(batch(task, [pair]), "val").loss.item() for pair in PAIRS)
    assert together == pytest.approx(alone, rel=1e-5)


def test_label_smoothing_is_for_training_alone():
    plain, smooth = make(), make(label_smoothing=0.2)
    given = batch(plain)
    assert plain._step(given, "val").loss == smooth._step(given, "val").loss
    assert plain.train()._step(given, "train").loss != smooth.train()._step(given, "train").loss


def write(task, sources, strategy, **settings):
    return generate(task, CHARS, sources, strategy=strategy, max_new_tokens=20, seed=0, **settings)


@pytest.mark.parametrize("strategy", [GREEDY, BEAM])
def test_what_is_written_belongs_to_its_source(strategy):
    task = make()
    sources = [source for source, _ in PAIRS]
    together = write(task, sources, strategy)
    for source, found in zip(sources, together, strict=True):
        [alone] = write(task, [source], strategy)
        assert found.ids == alone.ids and found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert found.prompt == source and found.prompt_dropped == 0 and len(found.ids) <= LIMIT
        assert [each.ids for each in found.n_best] == [each.ids for each in alone.n_best]
    assert len({tuple(found.logprobs) for found in together}) == len(sources)


def test_log_probabilities_are_those_of_the_uncached_model():
    task = make()
    for found in write(task, ["abc", "dd"], BEAM):
        assert found.text == found.n_best[0].text and len(found.n_best) == 3
        ids = found.ids
        source = torch.tensor([[*CHARS.encode(found.prompt), EOS]])
        logits = task.head.logits(task.model(source, None, torch.tensor([[BOS, *ids[:-1]]])))
        expected = logits.log_softmax(-1)[0, range(len(ids)), ids]
        assert found.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
        scores = [each.score for each in found.n_best]
        assert scores[0] == pytest.approx(sum(found.logprobs) / ((5 + len(ids)) / 6), abs=1e-4)


def test_many_sources_are_read_in_batches_of_similar_length(monkeypatch):
    task = make()
    read = []
    bind = task.bind
    monkeypatch.setattr(task, "bind", lambda sources: read.append(list(map(len, sources))) or bind(sources))
    sources = ["abcdefgh"[: 1 + number % 8] for number in range(AT_ONCE + 10)]
    shown = {}
    found = write(task, sources, GREEDY, on_text=lambda row, text: shown.update({row: shown.get(row, "") + text}))
    assert [each.prompt for each in found] == sources
    assert [shown.get(row, "") for row in range(len(sources))] == [each.text for each in found]
    assert [len(each) for each in read] == [AT_ONCE, 10]
    flat = [length for each in read for length in each]
    assert flat == sorted(flat)


def test_a_search_gives_its_best_not_samples():
    with pytest.raises(InputError, match=r"num_samples \(2\)") as caught:
        write(make(), ["abc"], BEAM, num_samples=2)
    assert caught.value.hint == "decoding.n_best=2 gives its best"
    [found] = write(make(), ["abc"], BEAM, stop=["a", "b", "c", "d", "e", "f", "g", "h"])
    assert found.text == "" and {each.finish_reason for each in found.n_best} <= {"stop", "end", "length"}


def test_sources_that_cannot_be_read():
    with pytest.raises(InputError, match="source 1 is empty"):
        write(make(), ["", "a"], GREEDY)
    with pytest.raises(InputError, match="source 2 has 12 tokens; the model reads 11"):
        write(make(), ["a", "abcdefghabcd"], GREEDY)
    assert write(make(), ["abcdefghabc"], GREEDY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 1.0}, r"task.label_smoothing \(1.0\)"),
        ({"causal": False}, "needs task.causal=true"),
        ({"bos_id": None}, "needs a tokenizer with ids for the beginning and the end"),
        ({"eos_id": None}, "needs a tokenizer with ids for the beginning and the end"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_validation_says_what_each_pair_adds():
    task = make()
    result = task._step(batch(task), "val")
    assert result.each["n"].tolist() == [4, 6, 2, 2] and result.n == 14
    assert result.each["loss"].sum().item() == pytest.approx(result.loss.item())
    assert result.each["correct"].sum() == result.sums["correct"]
    for row, pair in enumerate(PAIRS):
        alone = task._step(batch(task, [pair]), "val")
        assert result.each["loss"][row].item() == pytest.approx(alone.loss.item(), rel=1e-5)
