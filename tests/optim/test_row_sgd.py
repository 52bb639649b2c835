"""Gradient descent with a limit on the step of each row, on dense gradients and on those of sparse look-up tables."""

import pytest
import torch
from torch import nn

from llmcli.errors import InputError
from llmcli.optim.row_sgd import row_sgd

SETTINGS = {"lr": 0.5, "max_step": 1e9, "weight_decay": 0.0, "l1": 0.0}


def tables(sparse: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Embedding(11, 4, sparse=sparse), nn.Linear(4, 1)])


def train(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for seed in range(6):
        ids = torch.randint(0, 6, (9,), generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        (net[1](net[0](ids)) - ids[:, None]).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("sparse", [False, True])
def test_where_no_step_reaches_the_limit_it_is_torchs(sparse: bool):
    mine, reference = tables(sparse), tables(sparse=False)
    train(mine, row_sgd(mine, **SETTINGS))
    train(reference, torch.optim.SGD(reference.parameters(), lr=0.5))
    for one, other in zip(mine.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_longer_step_keeps_its_direction_and_the_other_rows_are_left_alone(sparse: bool):
    """The row that occurs twice has the sum of both gradients, which the limit shortens; one without any stays."""
    table = nn.Embedding(4, 2, sparse=sparse)
    before = table.weight.detach().clone()
    optimizer = row_sgd(table, **{**SETTINGS, "max_step": 2.0})
    (table(torch.tensor([1, 2, 1])) * torch.tensor([[3.0, 4.0], [1.0, -2.0], [3.0, 4.0]])).sum().backward()
    optimizer.step()
    moved = torch.tensor([[0.0, 0.0], [-1.2, -1.6], [-0.5, 1.0], [0.0, 0.0]])  # 2.0 and sqrt(1.25) long
    torch.testing.assert_close(table.weight.detach() - before, moved)


def test_weight_decay_belongs_to_the_step_that_is_limited():
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    layer.weight.grad = torch.zeros(1, 2)
    row_sgd(layer, **{**SETTINGS, "weight_decay": 0.1}).step()
    torch.testing.assert_close(layer.weight.detach(), torch.full((1, 2), 2.85))
    row_sgd(layer, **{**SETTINGS, "weight_decay": 0.1, "max_step": 0.05 * 2**0.5}).step()
    torch.testing.assert_close(layer.weight.detach(), torch.full((1, 2), 2.80))


@pytest.mark.parametrize("changes", [{"weight_decay": 0.1}, {"l1": 0.1}])
def test_what_would_touch_every_row_is_refused(changes: dict[str, float]):
    with pytest.raises(InputError, match="must be 0 with sparse gradients"):
        row_sgd(tables(sparse=True), **{**SETTINGS, **changes})


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"optimizer\.max_step \(0\.0\) must be above 0"):
        row_sgd(tables(sparse=True), **{**SETTINGS, "max_step": 0.0})
