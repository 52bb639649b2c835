"""task=sequence_to_sequence with a causal model: source and target as one text, of which the target is learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmcli.data.example_batches import EncodeRows, collate
from llmcli.data.records import TextPair
from llmcli.decoding.beam import Beam
from llmcli.decoding.generate import generate
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError
from llmcli.losses import IGNORED
from llmcli.models.gpt2 import GPT2
from llmcli.models.recurrent import Recurrent
from llmcli.tasks.language_modeling import LanguageModeling
from llmcli.tasks.sequence_to_sequence import SequenceToSequence
from llmcli.tokenizers.char import CharTokenizer

CHARS = CharTokenizer("abcdefgh")
BOS, EOS, LIMIT = CHARS.bos_id, CHARS.eos_id, 24
PAIRS = [("abc", "cba"), ("h", "hhhhh"), ("abcdefgh", "a"), ("dd", "d")]
PENALTIES = Penalties(repetition=1.3, frequency=0.0, presence=0.0, no_repeat_ngram=3)
GREEDY = Greedy(penalties=PENALTIES)
BEAM = Beam(
    beams=3, n_best=3, length_penalty="gnmt", alpha=1.0, early_stopping=False,
)  # fmt: skip


def gpt2():
    return GPT2(
        vocab_size=CHARS.vocab_size, max_seq_len=LIMIT, causal=True, d_model=16, n_layers=2, n_heads=2, dropout=0.0
    )


def gru():
    return Recurrent(
        cell="gru", vocab_size=CHARS.vocab_size, causal=True, d_model=16, d_hidden=None, n_layers=1,
        dropout_embedding=0.0, dropout_input=0.0, dropout_hidden=0.0, dropout_output=0.0, locked_dropout=True,
        weight_drop=0.0, tie_embeddings=False,
    )  # fmt: skip


def make(build=gpt2, **changes):
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
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


def test_a_pair_is_one_text():
    encode = make().encoder(CHARS)
    assert isinstance(encode, EncodeRows)
    [row] = encode.rows(TextPair("abc", "de"), encoded("abc", "de"), LIMIT)
    a, b, c, d, e = CHARS.encode("abcde")
    assert row["ids"].tolist() == [a, b, c, EOS, BOS, d, e]
    assert row["labels"].tolist() == [IGNORED] * 4 + [d, e, EOS]
    assert row["n_tokens"] == 3


def test_each_side_has_half_of_the_room():
    encode = make().encoder(CHARS)
    [row] = encode.rows(TextPair("abcdef", "abcdef"), encoded("abcdef", "abcdef"), 8)
    assert row["ids"].tolist() == [*CHARS.encode("abc"), EOS, BOS, *CHARS.encode("abc")]
    assert row["labels"].tolist() == [IGNORED] * 4 + CHARS.encode("abcd")
    lengths, first = np.array([6, 6, 1, 2]), np.array([0, 2])
    assert encode.sizes(lengths, first, 8).longest.tolist() == encode.sizes(lengths, first, 8).ids.tolist() == [8, 5]
    assert encode.sizes(lengths, first, None).longest.tolist() == [14, 5]


@pytest.mark.parametrize("build", [gpt2, gru])
def test_the_loss_is_the_language_models_on_the_target_alone(build):
    task = make(build)
    given = batch(task)
    torch.manual_seed(0)
    language_model = LanguageModeling(model=task.model, causal=True, label_smoothing=0.0).eval()
    language_model.head.load_state_dict(task.head.state_dict())
    logits = language_model.head.logits(task.model(given["ids"]))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), given["labels"].flatten(), reduction="sum")
    for stage in ("train", "val"):
        result = task._step(given, stage)
        assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert (result.n, result.text) == (14, 18 + 14)
    every = torch.where(given["labels"] == IGNORED, given["ids"], given["labels"])
    assert torch.nn.functional.cross_entropy(logits.flatten(0, 1), every.flatten(), reduction="sum") > expected


def test_the_batch_changes_nothing():
    task = make()
    together = task._step(batch(task), "val")
    alone = [task._step(batch(task, [pair]), "val").loss.item() for pair in PAIRS]
    assert together.loss.item() == pytest.approx(math.fsum(alone), rel=1e-5)
    assert together.each["loss"].tolist() == pytest.approx(alone, rel=1e-4)


def write(task, sources, strategy):
    return generate(task, CHARS, sources, strategy=strategy, max_new_tokens=40, seed=0)


@pytest.mark.parametrize("strategy", [GREEDY, BEAM])
@pytest.mark.parametrize("build", [gpt2, gru])
def test_what_is_written_belongs_to_its_source(build, strategy):
    task = make(build)
    sources = [source for source, _ in PAIRS]
    together = write(task, sources, strategy)
    for source, found in zip(sources, together, strict=True):
        [alone] = write(task, [source], strategy)
        assert found.ids == alone.ids and found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        text = torch.tensor([[*CHARS.encode(source), EOS, BOS, *found.ids[:-1]]])
        logits = task.head.logits(task.model(text))[0, -len(found.ids) :]
        expected = logits.log_softmax(-1)[range(len(found.ids)), found.ids]
        assert found.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert len({tuple(found.logprobs) for found in together}) == len(sources)


def test_a_source_has_half_of_the_model():
    task = make()
    assert task.max_seq_len == 12
    with pytest.raises(InputError, match="source 1 has 12 tokens; the model reads 11"):
        write(task, ["abcdefghabcd"], GREEDY)
    [found] = write(task, ["abcdefghabc"], GREEDY)
    assert len(found.ids) <= 12
    assert make(gru).max_seq_len is None


def test_a_model_that_reads_both_ways_is_refused():
    model = gpt2()
    model.causal = False
    with pytest.raises(InputError, match=r"needs task\.causal=true"):
        make(lambda: model)
