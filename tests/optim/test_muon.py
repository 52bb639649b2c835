"""The composite equals torch's Muon on hidden matrices and torch's AdamW on the rest, bit for bit."""

import pytest
import torch
from torch import Tensor, nn

from llmcli.optim.muon import MuonAdamW, muon, orthogonalize


class Net(nn.Module):
    """Two square matrices (one batch), a tall and a wide one, a head, an embedding, a convolution and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 16)
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 48, bias=False), nn.Linear(48, 16, bias=False)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 9, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.b(torch.tanh(self.a(self.table(ids))))
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(self.conv(x.mT).mT)


def build(model: nn.Module, **overrides: object) -> MuonAdamW:
    settings = {
        "lr": 0.02,
        "embedding_lr": 0.01,
        "head_lr": 0.005,
        "vector_lr": 0.003,
        "momentum": 0.95,
        "momentum_start": 0.95,
        "momentum_warmup": 0,
        "betas": [0.8, 0.95],
        "eps": 1e-10,
        "weight_decay": 0.1,
        "l1": 0.0,
    }
    return muon(model, **{**settings, **overrides})  # type: ignore[arg-type]


def backward(model: nn.Module, seed: int) -> None:
    ids = torch.randint(9, (4, 12), generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()


def test_twenty_steps_equal_torch_muon_and_adamw():
    torch.manual_seed(0)
    model, reference = Net(), Net()
    reference.load_state_dict(model.state_dict())
    ours = build(model)
    hidden = [reference.a.weight, reference.b.weight, reference.up.weight, reference.down.weight]
    theirs = [
        torch.optim.Muon(hidden, lr=0.02, momentum=0.95, weight_decay=0.1),
        torch.optim.AdamW(
            [
                {"params": [reference.table.weight], "lr": 0.01},
                {"params": [reference.head.weight], "lr": 0.005},
                {"params": [reference.conv.weight], "lr": 0.003},
                {
                    "params": [reference.a.bias, reference.b.bias, reference.conv.bias],
                    "lr": 0.003,
                    "weight_decay": 0.0,
                },
            ],
            betas=(0.8, 0.95),
            eps=1e-10,
            weight_decay=0.1,
            fused=True,
        ),
    ]
    for seed in range(20):
        backward(model, seed)
        ours.step()
        backward(reference, seed)
        for optimizer in theirs:
            optimizer.step()
    for (name, mine), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, other), name


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 64, 16), (1, 16, 64)])
def test_orthogonalize_keeps_directions_and_evens_out_singular_values(shape: tuple[int, int, int]):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(matrices)
    assert result.shape == matrices.shape and result.dtype == torch.bfloat16
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.diagonal(u.mT @ result.float() @ v.mT, dim1=-2, dim2=-1)
    well_conditioned = s > 0.05 * s.amax(-1, keepdim=True)
    assert values[well_conditioned].min() > 0.4 and values.max() < 1.4


def test_zero_gradient_gives_zero_update():
    assert not orthogonalize(torch.zeros(1, 4, 4)).any()


def test_batched_matrices_equal_single_ones():
    matrices = torch.randn(5, 24, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(orthogonalize(matrices), torch.cat([orthogonalize(one[None]) for one in matrices]))


def test_momentum_warms_up():
    """The first update at the lower start keeps less of the buffer: lerp(gradient, buffer, momentum)."""
    weight = nn.Linear(4, 4, bias=False)
    optimizer = build(weight, momentum_start=0.5, momentum_warmup=10)
    seen = []
    for _ in range(12):
        buffer = optimizer.state.get(weight.weight, {}).get("momentum_buffer", torch.zeros(4, 4)).clone()
        weight.weight.grad = torch.ones(4, 4)
        optimizer.step()
        now = optimizer.state[weight.weight]["momentum_buffer"]
        seen.append(1 - ((now - buffer) / (1 - buffer)).mean().item())  # buffer += (1 - momentum) * (1 - buffer)
    assert seen == pytest.approx([0.5 + 0.45 * min(step / 10, 1) for step in range(12)], abs=1e-4)


def test_weights_without_a_gradient_stay():
    model = Net()
    optimizer = build(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.a.weight.grad = torch.ones_like(model.a.weight)
    optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"a.weight"}
