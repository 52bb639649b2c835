"""Adagrad on sparse look-up tables: the same numbers as torch's on dense gradients, from the touched rows alone."""

import pytest
import torch
from torch import nn

from llmcli.errors import InputError
from llmcli.optim.adagrad import SparseAdagrad, adagrad


def tables(sparse: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Embedding(11, 4, sparse=sparse), nn.Linear(4, 1)])


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 6) -> None:
    for seed in range(steps):
        ids = torch.randint(0, 6, (9,), generator=torch.Generator().manual_seed(seed))  # rows 6 to 10 are never touched
        optimizer.zero_grad()
        (net[1](net[0](ids)) - ids[:, None]).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("accumulator", [0.0, 1.0])
def test_sparse_gradients_give_what_dense_ones_give(accumulator: float):
    sparse, dense = tables(sparse=True), tables(sparse=False)
    before = sparse[0].weight.detach().clone()
    optimizer = adagrad(sparse, lr=0.1, initial_accumulator=accumulator, per_row=False, weight_decay=0.0, l1=0.0)
    assert isinstance(optimizer, SparseAdagrad)
    reference = torch.optim.Adagrad(dense.parameters(), lr=0.1, initial_accumulator_value=accumulator)
    train(sparse, optimizer)
    train(dense, reference)
    for mine, other in zip(sparse.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    assert torch.equal(sparse[0].weight[6:], before[6:])
    assert not torch.equal(sparse[0].weight[:6], before[:6])


@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_row_moves_along_its_gradient(is_sparse: bool):
    """By lr * g / sqrt(the sum over steps of the mean of the row's g^2)."""
    table = nn.Embedding(3, 4, sparse=is_sparse)
    before = table.weight.detach().clone()
    optimizer = adagrad(table, lr=0.5, initial_accumulator=0.0, per_row=True, weight_decay=0.0, l1=0.0)
    gradients, total = torch.tensor([[1.0, -2.0, 0.0, 3.0], [0.5, 0.0, 0.0, 1.0]]), 0.0
    for gradient in gradients:
        optimizer.zero_grad()
        (table(torch.tensor([1])) @ gradient).sum().backward()
        optimizer.step()
        total += float(gradient.square().mean())
        before[1] -= 0.5 * gradient / total**0.5
        torch.testing.assert_close(table.weight.detach(), before)
    assert optimizer.state[table.weight]["sum"].shape == (3, 1)


def test_weight_decay_by_rows_is_refused():
    with pytest.raises(InputError, match=r"weight_decay \(0.1\) must be 0 with optimizer.per_row"):
        adagrad(tables(sparse=False), lr=0.1, initial_accumulator=0.0, per_row=True, weight_decay=0.1, l1=0.0)


@pytest.mark.parametrize("changes", [{"weight_decay": 0.1}, {"l1": 0.1}])
def test_what_would_touch_every_row_is_refused(changes: dict[str, float]):
    settings = {"lr": 0.1, "initial_accumulator": 0.0, "per_row": False, "weight_decay": 0.0, "l1": 0.0, **changes}
    with pytest.raises(InputError, match="must be 0 with sparse gradients"):
        adagrad(tables(sparse=True), **settings)


def test_a_resumed_optimizer_goes_on_exactly():
    whole, halves = tables(sparse=True), tables(sparse=True)
    settings = {"lr": 0.1, "initial_accumulator": 0.0, "per_row": False, "weight_decay": 0.0, "l1": 0.0}
    train(whole, adagrad(whole, **settings), steps=6)
    first = adagrad(halves, **settings)
    train(halves, first, steps=3)
    second = adagrad(halves, **settings)
    second.load_state_dict(first.state_dict())
    for seed in range(3, 6):
        ids = torch.randint(0, 6, (9,), generator=torch.Generator().manual_seed(seed))
        second.zero_grad()
        (halves[1](halves[0](ids)) - ids[:, None]).square().sum().backward()
        second.step()
    for mine, other in zip(halves.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)
