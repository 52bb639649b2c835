"""Each option is the torch optimizer it names, decays matrices alone, and works as Lightning drives it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from llmcli.errors import InputError
from llmcli.optim.sgd import sgd

CONFIGS = Path(__file__).parents[2] / "configs" / "optimizer"
OPTIONS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def build(option: str, **overrides: Any) -> Callable[[nn.Module], Optimizer]:
    config = yaml.safe_load((CONFIGS / f"{option}.yaml").read_text(encoding="utf-8"))
    return instantiate({**config, **overrides}, _convert_="all")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 8)
        self.square = nn.Linear(8, 8)
        self.wide = nn.Linear(8, 16, bias=False)
        self.head = nn.Linear(16, 7)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.wide(torch.tanh(self.square(self.table(ids))))))


def loss_of(model: nn.Module, seed: int) -> Tensor:
    ids = torch.randint(7, (6, 5), generator=torch.Generator().manual_seed(seed))
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), (ids * 3 % 7).flatten())


def train(model: nn.Module, optimizer: Optimizer, seeds: range) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        optimizer.step()


def twins() -> tuple[Net, Net]:
    torch.manual_seed(0)
    first, second = Net(), Net()
    second.load_state_dict(first.state_dict())
    return first, second


REFERENCES: dict[str, tuple[Callable[..., Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.02, "initial_accumulator_value": 0.1}),
    "adagrad_glove": (torch.optim.Adagrad, {"lr": 0.05, "initial_accumulator_value": 1.0}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 1e-3, "alpha": 0.99, "eps": 1e-8}),
    "adam": (torch.optim.Adam, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}),
    "adamw": (torch.optim.AdamW, {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8}),
    "adamw_preference": (torch.optim.AdamW, {"lr": 2e-4, "betas": (0.9, 0.95), "eps": 1e-8}),
}


@pytest.mark.parametrize("option", REFERENCES)
def test_twenty_steps_equal_torch(option: str):
    model, reference = twins()
    constructor, arguments = REFERENCES[option]
    matrices = [p for p in reference.parameters() if p.ndim > 1]
    vectors = [p for p in reference.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    train(model, build(option, weight_decay=0.1)(model), range(20))
    train(reference, constructor(groups, **arguments), range(20))
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_every_option_has_a_reference():
    assert {*REFERENCES, "muon", "adagrad_vectors", "sgd_vectors"} == set(OPTIONS)  # which have files of their own


def test_nesterov_needs_momentum():
    with pytest.raises(InputError, match=r"optimizer\.nesterov needs momentum above 0, got 0"):
        sgd(Net(), lr=0.1, momentum=0.0, nesterov=True, weight_decay=0.0, l1=0.0)


@pytest.mark.parametrize("option", OPTIONS)
def test_l1_pulls_matrices_towards_zero(option: str):
    model, other = twins()
    train(model, build(option, l1=0.05)(model), range(30))
    train(other, build(option)(other), range(30))
    norm = [sum(p.abs().sum().item() for p in m.parameters() if p.ndim > 1) for m in (model, other)]
    assert norm[0] < norm[1]


@pytest.mark.parametrize("option", OPTIONS)
def test_schedules_multiply_the_initial_rates(option: str):
    model = Net()
    optimizer = build(option)(model)
    before = [group["lr"] for group in optimizer.param_groups]
    assert before == [group["initial_lr"] for group in optimizer.param_groups]
    LambdaLR(optimizer, lambda step: 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25 * lr for lr in before]


@pytest.mark.parametrize("option", OPTIONS)
def test_resumed_equals_never_stopped(option: str, tmp_path: Path):
    whole, halves = twins()
    train(whole, build(option)(whole), range(8))

    optimizer = build(option)(halves)
    train(halves, optimizer, range(4))
    torch.save({"model": halves.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "half.pt")
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    resumed = Net()
    optimizer = build(option)(resumed)
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    train(resumed, optimizer, range(4, 8))

    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


class Module(pl.LightningModule):
    def __init__(self, option: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.option = Net(), option

    def training_step(self, seeds: Tensor) -> Tensor:
        return loss_of(self.net, int(seeds[0]))

    def configure_optimizers(self) -> Optimizer:
        return build(self.option, l1=1e-4)(self)


@pytest.mark.parametrize("option", ["sgd", "adamw", "muon"])
def test_lightning_drives_it_with_bfloat16_clipping_and_accumulation(option: str, tmp_path: Path):
    module = Module(option)
    before = loss_of(module.net, 100).item()
    trainer = pl.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        accumulate_grad_batches=2,
        max_steps=60,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(range(120)))  # type: ignore[arg-type]
    assert loss_of(module.net, 100).item() < 0.8 * before
