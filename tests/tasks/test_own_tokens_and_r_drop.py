"""Scheduled sampling and R-Drop of task=sequence_to_sequence: their formulas, and nothing where they are off."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmcli import heads
from llmcli.errors import InputError
from llmcli.losses import IGNORED, cross_entropy, r_drop
from llmcli.models.gpt2 import GPT2
from llmcli.models.seq2seq_rnn import Seq2SeqRecurrent
from llmcli.models.seq2seq_transformer import Seq2SeqTransformer
from llmcli.tasks.own_tokens import HALFWAY, ScheduledSampling, drawn
from llmcli.tasks.sequence_to_sequence import SequenceToSequence

VOCAB, BOS, EOS, PAD = 12, 1, 2, 0
LABELS = torch.tensor([[5, 6, 7, EOS], [8, EOS, IGNORED, IGNORED]])
TARGET = torch.tensor([[BOS, 5, 6, 7], [BOS, 8, PAD, PAD]])
PAIRS = {
    "ids": torch.tensor([[3, 4, 9, EOS], [4, EOS, PAD, PAD]]),
    "mask": torch.tensor([[True] * 4, [True] * 2 + [False] * 2]),
    "target": TARGET, "labels": LABELS, "n_tokens": 6, "n_ids": 6,
}  # fmt: skip
PREFIXED = {
    "ids": torch.tensor([[3, 4, EOS, BOS, 5, 6], [4, EOS, BOS, 8, PAD, PAD]]),
    "labels": torch.tensor([[IGNORED] * 3 + [5, 6, EOS], [IGNORED, IGNORED, 8, EOS, IGNORED, IGNORED]]),
    "n_tokens": 5, "n_ids": 10,
}  # fmt: skip


def transformer(dropout):
    return Seq2SeqTransformer(
        vocab_size=VOCAB, max_seq_len=8, d_model=16, n_encoder_layers=1, n_decoder_layers=1, n_heads=2, d_ff=None,
        norm="pre", positions="sinusoidal", share_embeddings=True, tie_embeddings=False, dropout=dropout,
    )  # fmt: skip


def rnn(dropout):
    return Seq2SeqRecurrent(
        cell="gru", vocab_size=VOCAB, d_model=16, n_encoder_layers=1, n_decoder_layers=1, attention="luong",
        share_embeddings=True, tie_embeddings=False, dropout=dropout,
    )  # fmt: skip


def gpt2(dropout):
    return GPT2(vocab_size=VOCAB, max_seq_len=8, causal=True, d_model=16, n_layers=1, n_heads=2, dropout=dropout)


def make(build=transformer, dropout=0.0, progress=1.0, **changes):
    torch.manual_seed(0)
    settings = {"causal": True, "bos_id": BOS, "eos_id": EOS, "label_smoothing": 0.1}
    task = SequenceToSequence(model=build(dropout), **{**settings, **changes}).train()
    task.progress = lambda step: progress
    return task


def loss(task, batch=PAIRS, seed=3):
    torch.manual_seed(seed)
    return task._step(batch, "train").loss


# -- scheduled sampling ----------------------------------------------------------------------------------------------


def test_the_share_of_own_tokens_over_the_budget():
    constant, linear = (ScheduledSampling(share=0.4, schedule=name) for name in ("constant", "linear"))
    assert [constant.rate(p) for p in (0.0, 0.5, 1.0)] == [0.4] * 3
    assert [linear.rate(p) for p in (0.0, 0.5, 1.0)] == [0.0, 0.2, 0.4]
    sigmoid = ScheduledSampling(share=1.0, schedule="inverse_sigmoid")
    for i in (0, 20, 50, 80, 100):
        right = HALFWAY / (HALFWAY + math.exp(i / HALFWAY))  # Bengio et al., section 2.4
        assert sigmoid.rate(i / 100) == pytest.approx(1 - right)
    assert sigmoid.rate(0.5) == pytest.approx(0.5, abs=1e-3)
    assert sigmoid.rate(0.0) < 0.06 and sigmoid.rate(1.0) > 0.94


def test_only_tokens_of_the_target_are_drawn():
    assert drawn(TARGET, LABELS, 1.0).tolist() == [[True, True, True], [True, False, False]]
    assert drawn(PREFIXED["ids"], PREFIXED["labels"], 1.0).tolist() == [
        [False, False, False, True, True],
        [False, False, True, False, False],
    ]
    assert not drawn(TARGET, LABELS, 0.0).any()
    torch.manual_seed(0)
    many = torch.full((100, 101), 5)
    assert drawn(many, many, 0.3).float().mean().item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(("build", "batch"), [(transformer, PAIRS), (rnn, PAIRS), (gpt2, PREFIXED)])
def test_the_model_reads_its_own_tokens(build, batch):
    task = make(build, scheduled_sampling=1.0, sampling_schedule="constant")
    given, labels = batch["ids" if build is gpt2 else "target"], batch["labels"]
    with torch.no_grad():
        hidden = task._hidden(batch, given)
        predicted = task.head.logits(hidden).argmax(-1)
    expected = given.clone()
    for row, t in (drawn(given, labels, 1.0)).nonzero().tolist():
        expected[row, t + 1] = predicted[row, t]
    assert not torch.equal(expected, given)
    plain = make(build)
    name = "ids" if build is gpt2 else "target"
    assert loss(task, batch).item() == pytest.approx(loss(plain, {**batch, name: expected}).item(), rel=1e-5)
    assert loss(task, batch) != loss(plain, batch)


def test_the_share_follows_the_budget():
    begun, ended = (make(scheduled_sampling=1.0, progress=progress) for progress in (0.0, 1.0))
    assert loss(begun) == loss(make())  # nothing is drawn yet
    assert loss(ended) != loss(make())


def test_gradients_are_whole_under_autocast():
    """Weights that the first pass has cast without gradients must not be used again in the second."""
    task = make(scheduled_sampling=1.0, sampling_schedule="constant")
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(task)
    value.backward()
    missing = [name for name, weight in task.named_parameters() if weight.grad is None]
    assert missing == []


# -- R-Drop ----------------------------------------------------------------------------------------------------------


def test_r_drop_is_its_formula():
    torch.manual_seed(0)
    one, other = torch.randn(5, VOCAB), torch.randn(5, VOCAB)
    labels = torch.tensor([1, 2, 3, 4, 5])
    p, q = (each.softmax(-1) for each in (one, other))
    divergences = (p * (p / q).log()).sum() + (q * (q / p).log()).sum()
    paper = -p[range(5), labels].log().sum() - q[range(5), labels].log().sum() + 3.0 * divergences / 2
    assert r_drop(one, other, labels, weight=3.0, label_smoothing=0.0).item() == pytest.approx(paper.item() / 2)
    same = r_drop(one, one, labels, weight=3.0, label_smoothing=0.1)
    assert same.item() == pytest.approx(cross_entropy(one, labels, label_smoothing=0.1).item(), rel=1e-6)


@pytest.mark.parametrize(("build", "batch"), [(transformer, PAIRS), (gpt2, PREFIXED)])
def test_two_passes_with_other_dropout_are_compared(build, batch):
    task = make(build, dropout=0.3, r_drop=5.0)
    real = batch["labels"] != IGNORED
    torch.manual_seed(3)
    given = batch["ids" if build is gpt2 else "target"]
    one, other = (task.head.logits(task._hidden(batch, given)[real]) for _ in range(2))
    assert not torch.equal(one, other)
    expected = r_drop(one, other, batch["labels"][real], weight=5.0, label_smoothing=0.1)
    assert loss(task, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    without = make(build, dropout=0.0, r_drop=5.0)
    assert loss(without, batch).item() == pytest.approx(loss(make(build), batch).item(), rel=1e-5)


@pytest.mark.parametrize("changes", [{"r_drop": 5.0}, {"scheduled_sampling": 1.0, "sampling_schedule": "constant"}])
def test_many_logits_are_made_in_chunks_with_the_same_result(monkeypatch, changes):
    def build(dropout):
        return Seq2SeqRecurrent(
            cell="gru", vocab_size=500, d_model=16, n_encoder_layers=1, n_decoder_layers=1, attention="luong",
            share_embeddings=True, tie_embeddings=False, dropout=dropout,
        )  # fmt: skip

    torch.manual_seed(2)
    ids = torch.randint(4, 500, (8, 9))
    batch = {"ids": ids, "target": ids, "labels": ids.roll(-1, 1), "n_tokens": 72, "n_ids": 72}
    task = make(build, dropout=0.3, **changes)
    monkeypatch.setattr(heads, "PLAIN_LOGITS", 0)
    found = []
    for chunk in (None, 7):
        task.head.chunk = chunk
        with Watch() as watch:
            value = loss(task, batch)
            found.append((value, torch.autograd.grad(value, list(task.parameters()))))
        assert watch.largest == (500 * 72 if chunk is None else 500 * 16)  # all logits; no more than a table
    torch.testing.assert_close(*found)


class Watch(TorchDispatchMode):
    """largest: elements of the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            self.largest = max(self.largest, each.numel() if isinstance(each, torch.Tensor) else 0)
        return found


# -- both off --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [transformer, rnn])
def test_off_is_what_it_was(build):
    task = make(build, dropout=0.3)
    torch.manual_seed(3)
    was = task.head(task.model(PAIRS["ids"], PAIRS["mask"], PAIRS["target"]), LABELS)
    assert torch.equal(loss(task), was)
    assert torch.equal(loss(make(build, dropout=0.3, scheduled_sampling=0.0, r_drop=0.0)), was)


def test_validation_knows_neither():
    plain, changed = make(), make(scheduled_sampling=1.0, sampling_schedule="constant", r_drop=5.0)
    assert torch.equal(plain.eval()._step(PAIRS, "val").loss, changed.eval()._step(PAIRS, "val").loss)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduled_sampling": 1.5}, r"task\.scheduled_sampling \(1\.5\) must be in \[0, 1\]"),
        ({"sampling_schedule": "cosine"}, r"task\.sampling_schedule \(cosine\) must be one of constant, linear"),
        ({"r_drop": -1.0}, r"task\.r_drop \(-1\.0\) must be at least 0"),
    ],
)
def test_values_outside_their_range(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


@pytest.mark.parametrize("build", [transformer, rnn, gpt2])
def test_r_drop_of_a_model_that_drops_nothing_out_is_refused(build):
    learns = {"optimizer": torch.optim.AdamW, "schedule": lambda progress, step: 1.0, "r_drop": 5.0}
    with pytest.raises(InputError, match=r"task.r_drop \(5.0\) compares two passes with other dropout"):
        make(build, 0.0, **learns)
    make(build, 0.1, **learns)
    after = torch.get_rng_state()
    make(build, 0.1)
    assert torch.equal(after, torch.get_rng_state())  # to look costs no random number
