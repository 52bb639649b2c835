"""Every parameter has one role, and the roles decide decay and L1."""

import pytest
import torch
from torch import nn

from llmcli.heads import LanguageModelHead
from llmcli.optim.adamw import adamw
from llmcli.optim.groups import roles
from llmcli.optim.sgd import sgd


class Model(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.lstm = nn.LSTM(4, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.output = LanguageModelHead(
            d_model=4,
            vocab_size=11,
            embedding=self.table if tied else None,
            bias=True,
            softcap=None,
            label_smoothing=0.0,
        )


def names(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


def test_roles_follow_module_type_and_dimensions():
    model = Model(tied=False)
    found = roles(model)
    assert names(model, found.hidden_matrices) == {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "conv.weight"}
    assert names(model, found.embeddings) == {"table.weight"}
    assert names(model, found.heads) == {"output.weight"}
    assert names(model, found.vectors) == {
        "lstm.bias_ih_l0",
        "lstm.bias_hh_l0",
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "output.bias",
    }


def test_tied_weight_is_an_embedding_once():
    found = roles(Model(tied=True))
    assert len(found.embeddings) == 1 and found.heads == []


def test_an_attribute_named_head_is_a_head():
    model = nn.ModuleDict({"body": nn.Linear(2, 2, bias=False), "head": nn.Linear(2, 5)})
    assert names(model, roles(model).heads) == {"head.weight"}


def test_frozen_parameters_have_no_role():
    model = Model(tied=False)
    model.table.weight.requires_grad_(False)
    assert roles(model).embeddings == []


def test_only_matrices_decay():
    model = nn.Linear(3, 3)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = adamw(model, lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.5, l1=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight, weight * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias, bias)


@pytest.mark.parametrize("in_closure", [False, True])
def test_l1_is_the_gradient_of_the_absolute_sum(in_closure: bool):
    torch.manual_seed(0)
    model, reference = nn.Linear(4, 3), nn.Linear(4, 3)
    reference.load_state_dict(model.state_dict())
    x = torch.randn(5, 4)
    ours = sgd(model, lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.0, l1=0.01)
    theirs = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)

    def closure() -> torch.Tensor:  # as Lightning passes it: gradients are made inside `step`
        ours.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        if in_closure:
            ours.step(closure)
        else:
            closure()
            ours.step()
        theirs.zero_grad()
        (reference(x).square().mean() + 0.01 * reference.weight.abs().sum()).backward()
        theirs.step()
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
