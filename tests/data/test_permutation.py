"""Orders of prediction: how many tokens, which never, how they spread, and that only seed and window decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmcli.data.masking import special_ids
from llmcli.data.permutation import Permutation
from llmcli.errors import InputError
from llmcli.tokenizers import char

T, B = 64, 8


@pytest.fixture(scope="module")
def tokenizer():
    return char.train(["abcdefghijklmnopqrstuvwxyz"], min_frequency=1)


def make(tokenizer, **changes):
    return Permutation(tokenizer, **{"k": 6, "longest_span": 5, "marks": True, **changes})


def window(tokenizer, *, rows=B, length=T, lengths=None, seed=0):
    """Windows as `llmcli.data.windows` gives them; every 13th token ends a document."""
    ids = torch.randint(16, tokenizer.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(seed))
    ids[:, 12::13] = tokenizer.eos_id
    batch = {"ids": ids[:, :-1], "labels": ids[:, 1:].clone(), "n_tokens": rows * length, "index": 3}
    if lengths is not None:
        mask = torch.arange(length) < torch.tensor(lengths)[:, None]
        batch |= {"mask": mask, "labels": batch["labels"].where(mask, -100), "ids": batch["ids"].where(mask, 0)}
    return batch


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("lengths", [None, [64, 40, 7, 6, 3, 2, 1, 64]])
def test_one_in_k_tokens_is_a_target_and_never_a_special_one_or_padding(tokenizer, marks, lengths):
    given = window(tokenizer, lengths=lengths)
    found = make(tokenizer, marks=marks)(given, 7)
    ids, order, places, targets = (found[name] for name in ("ids", "order", "places", "targets"))
    real = given.get("mask", torch.ones(B, T, dtype=torch.bool))
    asked = torch.from_numpy(~special_ids(tokenizer))[ids] & real
    total = 0
    for row in range(B):
        count = int((targets[row] != -100).sum())
        candidates = int(asked[row].sum())
        assert count == max(candidates // 6, min(1, candidates - 1), 0)
        chosen = places[row, :count]
        assert asked[row, chosen].all() and torch.equal(ids[row, chosen], targets[row, :count])
        assert order[row, chosen].tolist() == list(range(1, count + 1))  # none twice
        assert int((order[row] > 0).sum()) == count
        if count:
            assert ((order[row] == 0) & real[row]).any()
        total += count
    assert found["n_tokens"] == total and found["n_ids"] == int(real.sum()) and found["index"] == 3
    assert ("mask" in found) == (lengths is not None)


def test_marks_take_the_ends_of_the_window(tokenizer):
    given = window(tokenizer, lengths=[64, 40, 7, 6, 3, 2, 1, 64])
    ids = make(tokenizer)(given, 7)["ids"]
    assert (ids[:6, 0] == tokenizer.cls_id).all() and torch.equal(ids[0, 1:63], given["ids"][0, 1:63])
    assert ids[0, 63] == ids[1, 39] == ids[2, 6] == tokenizer.sep_id
    plain = make(tokenizer, marks=False)(given, 7)["ids"]
    assert torch.equal(plain, given["ids"])


def test_an_order_is_that_of_the_row_whatever_the_batch_and_new_with_the_seed(tokenizer):
    encode, given = make(tokenizer), window(tokenizer)
    whole = encode(given, 7)
    for row in range(B):
        one = {**given, "ids": given["ids"][[row]], "labels": given["labels"][[row]]}
        assert torch.equal(encode(one, 7)["order"][0], whole["order"][row])
    assert torch.equal(encode(given, 7)["order"], whole["order"])
    assert not torch.equal(encode(given, 8)["order"], whole["order"])


def test_every_token_is_as_likely_and_every_order(tokenizer):
    encode = make(tokenizer, marks=False)
    orders = np.concatenate([encode(window(tokenizer, rows=64, seed=seed), 7)["order"].numpy() for seed in range(60)])
    shares = (orders > 0).mean(0)
    asked = np.ones(T, bool)
    asked[12::13] = False
    assert not shares[~asked].any()
    assert abs(shares[asked] - 10 / asked.sum()).max() < 0.06  # 60 candidates, 10 targets; fewer spans reach the first
    left, right = orders[:, 20], orders[:, 21]
    both = (left > 0) & (right > 0)
    assert abs((left < right)[both].mean() - 0.5) < 0.08  # neighbours, in either order


@pytest.mark.parametrize(("longest_span", "low", "high"), [(1, 0.0, 0.05), (5, 0.4, 0.6)])
def test_targets_stand_together_in_spans(tokenizer, longest_span, low, high):
    """How often the token after a target is one too: single tokens keep their distance."""
    encode = make(tokenizer, marks=False, longest_span=longest_span)
    orders = np.concatenate([encode(window(tokenizer, rows=64, seed=seed), 7)["order"].numpy() for seed in range(20)])
    targets = orders > 0
    assert low < targets[:, 1:][targets[:, :-1]].mean() < high


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 1}, r"task.k \(1\) must be at least 2"),
        ({"longest_span": 0}, r"task.longest_span \(0\) must be at least 1"),
    ],
)
def test_what_is_refused(tokenizer, changes, message):
    with pytest.raises(InputError, match=message):
        make(tokenizer, **changes)
