"""Permutation language modelling: the loss against a computation target by target, and what a prediction sees."""

from __future__ import annotations

import pytest
import torch

from llmcli.errors import InputError
from llmcli.models.xlnet import XLNet
from llmcli.tasks.permutation_lm import PermutationLM
from llmcli.tokenizers import char

TEXTS = ["the cat sees a red ball", "my sister likes the moon"]
B, T = 3, 24


@pytest.fixture(scope="module")
def tokenizer():
    return char.train(TEXTS, min_frequency=1)


@pytest.fixture(scope="module")
def task(tokenizer):
    torch.manual_seed(0)
    model = XLNet(
        vocab_size=tokenizer.vocab_size, causal=False, sep_id=tokenizer.sep_id, d_model=16, n_layers=2, n_heads=2,
        d_ff=None, dropout=0.0,
    )  # fmt: skip
    task = PermutationLM(model=model, causal=False, k=4, longest_span=3, marks=True)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return task.double().eval()


@pytest.fixture
def batch(task, tokenizer):
    ids = torch.randint(16, tokenizer.vocab_size, (B, T + 1), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(T) < torch.tensor([T, 17, 5])[:, None]
    windows = {"ids": ids[:, :-1].where(mask, 0), "labels": ids[:, 1:].where(mask, -100), "mask": mask, "index": 0}
    return task.encoder(tokenizer)(windows, 7)


@torch.no_grad()
def test_the_loss_is_that_of_each_target_predicted_alone(task, batch):
    """For a target, the tokens of higher order are cut out of what the model is given, the target with them."""
    expected, right, count = 0.0, 0, 0
    for row in range(B):
        for place, target in zip(batch["places"][row].tolist(), batch["targets"][row].tolist(), strict=True):
            if target == -100:
                continue
            order = batch["order"][row]
            hidden_yet = (order >= order[place]) & (order > 0)
            ids = batch["ids"][row].where(~hidden_yet, 20)  # any token: none sees it
            state = task.model.two_streams(ids[None], order[None], torch.tensor([[place]]), batch["mask"][row, None])
            logits = task.head.logits(state)[0, 0]
            expected -= logits.log_softmax(0)[target].item()
            right += int(logits.argmax() == target)
            count += 1
    assert count == batch["n_tokens"] > 5
    for stage in ("train", "val"):
        result = task._step(batch, stage)
        assert result.loss.item() == pytest.approx(expected, rel=1e-6)
        assert (result.n, result.text) == (count, 46)
    assert result.sums["correct"] == right


@torch.no_grad()
def test_targets_of_other_rows_and_padding_change_nothing(task, batch):
    whole = task.hidden(batch["ids"], batch["order"], batch["places"], batch["mask"])
    for row, length in enumerate((T, 17, 5)):
        count = int((batch["targets"][row] != -100).sum())
        alone = task.hidden(
            batch["ids"][[row], :length], batch["order"][[row], :length], batch["places"][[row], :count], None
        )
        torch.testing.assert_close(whole[row, :count], alone[0])


def test_causal_models_are_refused(task):
    with pytest.raises(InputError, match="needs task\\.causal=false"):
        PermutationLM(model=task.model, causal=True, k=6, longest_span=5, marks=True)


@torch.no_grad()
def test_masks_are_filled_from_the_known_tokens_whatever_the_batch(task, tokenizer):
    texts = ["the <mask>at sees a red ball", "my <mask><mask>ster likes the moon", ""]
    together = task.predict(texts, tokenizer, top=3)
    for text, found in zip(texts, together, strict=True):
        [alone] = task.predict([text], tokenizer, top=3)
        assert alone["filled"] == found["filled"] and found["text"] == text
        assert [each["mask"] for each in found["tokens"]] == sorted([*range(1, text.count("<mask>") + 1)] * 3)
        for one, other in zip(found["tokens"], alone["tokens"], strict=True):
            assert one["probability"] == pytest.approx(other["probability"])
    encoded = [tokenizer.encode(part) for part in ("my ", "ster likes the moon")]
    ids = torch.tensor([[tokenizer.cls_id, *encoded[0], 20, 25, *encoded[1], tokenizer.sep_id]])  # any letters there
    places = torch.tensor([[4, 5]])
    order = torch.zeros_like(ids).scatter(1, places, 1)
    shares = task.head.logits(task.hidden(ids, order, places, None))[0, :, 16:].softmax(1)
    best = [each["probability"] for each in together[1]["tokens"]][::3]
    assert best == pytest.approx(shares.amax(1).tolist())
    with pytest.raises(InputError, match="nothing is left out of 'a dog'"):
        task.predict(["a dog"], tokenizer, top=1)
    assert task.example("the unhappy cat") == "the <mask> cat"


@torch.no_grad()
def test_a_mask_with_nothing_around_it_is_filled_too(task, tokenizer):
    bare = PermutationLM(model=task.model, causal=False, k=4, longest_span=3, marks=False).double().eval()
    alone, beside = (bare.predict(texts, tokenizer, top=3) for texts in (["<mask>"], ["<mask>", "the <mask>at"]))
    shares = [each["probability"] for each in alone[0]["tokens"]]
    assert all(0 < share < 1 for share in shares)
    assert shares == pytest.approx([each["probability"] for each in beside[0]["tokens"]])
