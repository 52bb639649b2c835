"""Replaced token detection: what counts as replaced, which gradients flow, and that nothing but the weights decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmcli.data.replacing import Replacing
from llmcli.errors import InputError
from llmcli.models.bert import BERT
from llmcli.tasks.replaced_token import ReplacedToken, drawn
from llmcli.tokenizers import char

TEXTS = ["the cat sees a red ball", "my sister likes the moon", "a dog", ""]
OPTIONS = {
    "causal": False, "generator_size": 0.5, "weight": 50.0, "rate": 0.25, "unit": "token", "marks": True,
}  # fmt: skip
B, T = 4, 16


@pytest.fixture(scope="module")
def tokenizer():
    return char.train(TEXTS, min_frequency=1)


def make(tokenizer, **changes):
    torch.manual_seed(0)
    model = BERT(
        vocab_size=tokenizer.vocab_size, max_seq_len=40, causal=False, sep_id=tokenizer.sep_id, n_types=2, d_embed=6,
        d_model=16, n_layers=2, n_heads=4, d_ff=None, dropout=0.0,
    )  # fmt: skip
    task = ReplacedToken(model=model, **{**OPTIONS, **changes})
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return task


@pytest.fixture(scope="module")
def task(tokenizer):
    return make(tokenizer)


def window(tokenizer, rows=B, seed=0, padded=False):
    """Windows as `llmcli.data.windows` gives them, the last row padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(16, tokenizer.vocab_size, (rows, T + 1), generator=generator)
    ids[0, 5] = tokenizer.eos_id
    batch = {"ids": ids[:, :-1], "labels": ids[:, 1:].clone(), "n_tokens": rows * T, "index": 0}
    if padded:
        batch["mask"] = torch.ones(rows, T, dtype=torch.bool)
        batch["mask"][-1, 9:] = False
        batch["ids"] = batch["ids"].where(batch["mask"], tokenizer.pad_id)
        batch["labels"] = batch["labels"].where(batch["mask"], -100)
    return batch


@pytest.fixture(params=[False, True], ids=["full", "padded"])
def batch(request, task, tokenizer):
    return task.encoder(tokenizer)(window(tokenizer, padded=request.param), 7)


@torch.no_grad()
def test_the_loss_is_the_sum_of_both_networks_over_their_own_tokens(task, batch):
    """Token by token: the generator's cross-entropy where it fills in, the discriminator's decision everywhere real."""
    real = batch.get("mask", torch.ones(B, T, dtype=torch.bool))
    logits = task.generator_head.logits(task.generator(batch["ids"], mask=real))  # (B, T, V)
    seen = batch["ids"].clone()
    generator_loss, replaced = 0.0, torch.zeros(B, T)
    for place, target, share in zip(batch["places"].tolist(), batch["targets"].tolist(), batch["draws"], strict=True):
        row, column = divmod(place, T)
        probabilities = logits[row, column].softmax(0)
        filled_in = next(index for index in range(len(probabilities)) if probabilities[: index + 1].sum() > share)
        generator_loss -= probabilities[target].log().item()
        seen[row, column] = filled_in
        replaced[row, column] = float(filled_in != target)
    scores = task.head(task.model(seen, mask=real))[..., 0]
    discriminator_loss = sum(
        F.softplus(scores[row, column] * (1 - 2 * replaced[row, column])).item() for row, column in real.nonzero()
    )
    for stage in ("train", "val"):
        result = task._step(batch, stage)
        assert result.loss.item() == pytest.approx(50 * discriminator_loss + generator_loss / 0.25, rel=1e-5)
        assert result.n == int(real.sum())
    predicted = (scores > 0) & real
    assert result.sums["replaced"] == replaced.sum() > 0
    assert result.sums["predicted"] == predicted.sum()
    assert result.sums["hits"] == (predicted & replaced.bool()).sum()
    assert result.sums["correct"] == (predicted == replaced.bool())[real].sum()
    assert result.sums["generator_loss"].item() == pytest.approx(generator_loss, rel=1e-5)
    assert result.sums["hidden"] == len(batch["targets"])


@torch.no_grad()
def test_a_token_that_is_filled_in_as_it_was_counts_as_original(task, batch, monkeypatch):
    monkeypatch.setattr("llmcli.tasks.replaced_token.drawn", lambda logits, draws: batch["targets"])
    result = task._step(batch, "val")
    assert result.sums["replaced"] == 0
    monkeypatch.setattr("llmcli.tasks.replaced_token.drawn", lambda logits, draws: (batch["targets"] + 1) % 20)
    assert task._step(batch, "val").sums["replaced"] == len(batch["targets"])


def test_the_generator_gets_no_gradient_of_the_discriminator(tokenizer):
    batch = make(tokenizer).encoder(tokenizer)(window(tokenizer), 7)
    gradients = []
    for weight in (50.0, 1.0):
        task = make(tokenizer, weight=weight)
        task._step(batch, "train").loss.backward()
        gradients.append({name: parameter.grad for name, parameter in task.named_parameters()})
    one, other = gradients
    own = [name for name in one if name.startswith("generator") and "output" not in name]
    assert len(own) > 20
    for name in own:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
        assert one[name].any() or "k.bias" in name  # which a softmax does not feel
    for name in ("head.0.weight", "model.blocks.0.q.weight"):
        torch.testing.assert_close(one[name], 50 * other[name], rtol=1e-3, atol=1e-3)
    assert not torch.equal(one["model.input_embedding.weight"], other["model.input_embedding.weight"])  # is shared


def test_both_networks_stand_on_the_same_tables_and_fine_tuning_finds_the_discriminator_alone(task):
    assert task.generator.input_embedding is task.model.input_embedding
    assert task.generator_head.output.weight is task.model.input_embedding.weight
    assert task.generator.d_model == 8 < task.model.d_model
    names = {name for name in task.state_dict() if name.startswith("model.")}
    assert names == {f"model.{name}" for name in task.model.state_dict()}


@torch.no_grad()
def test_special_tokens_and_padding_are_never_filled_in(task, batch, tokenizer, monkeypatch):
    given = {}
    scores = task.scores
    monkeypatch.setattr(task, "scores", lambda ids, mask: given.update(ids=ids) or scores(ids, mask))
    task._step(batch, "val")
    original = batch["ids"].flatten().scatter(0, batch["places"], batch["targets"]).view(B, T)
    special = torch.tensor([tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.eos_id])
    assert (original == tokenizer.eos_id).any() and (original == tokenizer.cls_id).sum() == B
    assert torch.equal(given["ids"][torch.isin(original, special)], original[torch.isin(original, special)])
    assert not (given["ids"] == tokenizer.mask_id).any()  # the discriminator never sees one
    assert (given["ids"] != original).sum() > 0


def test_draws_are_those_of_the_row_whatever_the_batch_and_new_with_the_seed(task, tokenizer):
    encode = task.encoder(tokenizer)
    assert isinstance(encode, Replacing)
    whole = window(tokenizer)
    rows = [encode({**whole, "ids": whole["ids"][[i]], "labels": whole["labels"][[i]]}, 7)["draws"] for i in range(B)]
    found = encode(whole, 7)
    assert torch.equal(found["draws"], torch.cat(rows)) and len(found["draws"]) == found["n_tokens"]
    assert not torch.equal(encode(whole, 8)["draws"], found["draws"])
    assert found["draws"].min() >= 0 and found["draws"].max() < 1


def test_tokens_are_drawn_with_their_probabilities():
    logits = torch.tensor([1.0, -torch.inf, 0.5, 2.0, -1.0, -torch.inf])
    draws = torch.from_numpy(np.random.default_rng(0).random(20_000, np.float32))
    counts = torch.bincount(drawn(logits.expand(20_000, -1), draws), minlength=6) / 20_000
    torch.testing.assert_close(counts, logits.softmax(0), rtol=0, atol=0.01)
    assert counts[1] == counts[5] == 0
    exact = drawn(torch.zeros(3, 4), torch.tensor([0.0, 0.25, 0.999]))
    assert exact.tolist() == [0, 1, 3]


def test_predictions_name_every_token_and_do_not_depend_on_the_batch(task, tokenizer):
    task.eval()
    together = task.predict(TEXTS, tokenizer, top=1)
    for text, found in zip(TEXTS, together, strict=True):
        assert found["text"] == text
        assert [each["token"] for each in found["tokens"]] == [
            tokenizer.token(index) for index in tokenizer.encode(text)
        ]
        [alone] = task.predict([text], tokenizer, top=1)
        for one, other in zip(found["tokens"], alone["tokens"], strict=True):
            assert one["replaced"] == pytest.approx(other["replaced"], abs=1e-5)
    row = torch.tensor([[tokenizer.cls_id, *tokenizer.encode("a dog"), tokenizer.sep_id]])
    expected = task.scores(row, None).sigmoid()[0, 1:-1].tolist()
    assert [each["replaced"] for each in together[2]["tokens"]] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match="has 42 ids and the model reads 40"):
        task.predict(["a" * 40], tokenizer, top=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"causal": True}, "needs task.causal=false"),
        ({"generator_size": 0.0}, r"task.generator_size \(0.0\) must be above 0 and at most 1"),
        ({"generator_size": 1.5}, r"task.generator_size \(1.5\)"),
        ({"weight": 0.0}, r"task.weight \(0.0\) must be above 0"),
    ],
)
def test_what_is_refused(tokenizer, changes, message):
    with pytest.raises(InputError, match=message):
        make(tokenizer, **changes)
