"""The seams carry every kind of task that is to come: tagging, sequence to sequence, two networks in one task.

Each toy is written as a newcomer would write the real thing (a Task with one `_step` and `metrics`, any data module)
and is trained by the same trainer, history and checkpoints as a language model, to its known optimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from llmcli.callbacks.base import Context
from llmcli.callbacks.checkpoints import Checkpoints
from llmcli.callbacks.history import History
from llmcli.callbacks.steps import BudgetStop, StepSeeds
from llmcli.decoding.base import StepOutput
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.penalties import Penalties
from llmcli.metrics.base import Metric
from llmcli.metrics.text import Accuracy, Loss
from llmcli.models.base import State
from llmcli.models.transformer import Transformer
from llmcli.tasks.base import StepResult, Task
from llmcli.tokenizers.byte import ByteTokenizer
from llmcli.trainer import Budget, TrainerSettings, build_trainer, quiet_lightning

V, T, B = 12, 8, 32

NO_PENALTIES = Penalties(repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=0)


def _adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=5e-3)


def _constant(progress: float, step: int) -> float:
    return 1.0


def _encoder(causal: bool = False) -> Transformer:
    return Transformer(
        vocab_size=V, max_seq_len=T, causal=causal, d_model=32, n_layers=1, n_heads=2, n_kv_heads=None, d_ff=None,
        activation="relu2", qk_norm=True, rope_theta=10000.0, ngram_rows=[], tie_embeddings=False, logit_softcap=None,
        dropout=0.0,
    )  # fmt: skip


class Batches(pl.LightningDataModule):
    """The same batches each epoch."""

    def __init__(self, make: Any, count: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self._train = [{**make(generator), "index": i} for i in range(count)]
        self._val = [{**make(generator), "index": i} for i in range(2)]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self._train, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self._val, batch_size=None)


def _fit(task: Task, data: Batches, folder: Path, steps: int) -> History:
    quiet_lightning()
    torch.manual_seed(0)
    settings = TrainerSettings(
        max_steps=steps, max_epochs=None, max_time=None, max_tokens=None, accelerator="cpu", devices=1, strategy="auto",
        precision="32-true", compile=False, accumulate=1, clip_norm=1.0, val_every=steps // 2, val_batches=2,
        log_every=50, default_steps=1,
    )  # fmt: skip
    budget = Budget(steps=steps, seconds=None)
    history = History(
        folder=folder,
        budget=budget,
        log_every=50,
        monitor=task.monitor,
        higher_is_better=task.higher_is_better,
        about={},
    )
    checkpoints = Checkpoints(every="1h", keep=1)
    checkpoints.attach(
        Context(
            folder=folder,
            history=history,
            tokenizer=ByteTokenizer(),
            strategy=Greedy(penalties=NO_PENALTIES),
            prompt="",
        )
    )
    task.nominal_tokens = B * T
    task.run_state = {"format": 1}
    callbacks = [StepSeeds(seed=1), history, BudgetStop(budget=budget, history=history), checkpoints]
    build_trainer(settings, callbacks=callbacks, folder=folder).fit(task, datamodule=data)
    return history


def _same_after_loading(task: Task, fresh: Task, folder: Path) -> None:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    fresh.load_state_dict(content["state_dict"])
    for a, b in zip(task.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


# --- tagging: a bidirectional backbone, a token head, a monitor of which more is better


class Tagging(Task):
    """The tag of a token says whether the next one is even: nothing that looks only back can know it."""

    takes = ("TaggedTokens",)
    kinds = ("attention", "recurrent")
    needs_causal = False
    monitor = "val_accuracy"

    def __init__(self) -> None:
        super().__init__(optimizer=_adam, schedule=_constant)
        self.model = _encoder()
        self.head = nn.Linear(self.model.d_model, 2)

    def _step(self, batch: Mapping[str, Any], stage: str) -> StepResult:
        logits = self.head(self.model(batch["ids"], mask=batch["mask"]))
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, reduction="sum")
        correct = (logits.argmax(-1) == batch["labels"]).sum()
        return StepResult(loss=loss, n=batch["n_tokens"], sums={"correct": correct})

    def metrics(self) -> list[Metric]:
        return [Loss(), Accuracy()]


def _tagged(generator: torch.Generator) -> dict[str, Any]:
    ids = torch.randint(1, V, (B, T), generator=generator)
    lengths = torch.randint(3, T + 1, (B, 1), generator=generator)
    mask = torch.arange(T) < lengths
    labels = torch.full((B, T), -100)
    labels[:, :-1] = (ids[:, 1:] % 2 == 0).long()
    labels[torch.arange(T) >= lengths - 1] = -100
    return {"ids": ids * mask, "mask": mask, "labels": labels, "n_tokens": int((labels != -100).sum())}


def test_tagging(tmp_path):
    task = Tagging()
    history = _fit(task, Batches(_tagged, 20), tmp_path, steps=300)
    assert history.now.best["accuracy"] > 0.99
    assert history.now.best_step is not None
    _same_after_loading(task, Tagging(), tmp_path)


# --- sequence to sequence: memory lives in the decoding state


@dataclass
class Memory(State):
    """hidden (B, D) of the decoder and the encoder's outputs (B, S, D)."""

    hidden: Tensor
    memory: Tensor
    lengths: Tensor

    def reorder(self, index: Tensor) -> Self:
        return type(self)(self.hidden[index], self.memory[index], self.lengths[index])

    def truncate(self, lengths: Tensor) -> Self:
        raise ValueError("this decoder cannot go back")

    def clone(self) -> Self:
        return type(self)(self.hidden.clone(), self.memory, self.lengths.clone())

    def detach(self) -> Self:
        return type(self)(self.hidden.detach(), self.memory.detach(), self.lengths)


class Reverser(nn.Module):
    """`encode(source) -> memory`, `decode(ids, memory) -> hidden`: a GRU pair with dot-product attention."""

    def __init__(self, d: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, d)
        self.encoder = nn.GRU(d, d // 2, batch_first=True, bidirectional=True)
        self.decoder = nn.GRU(d, d, batch_first=True)
        self.output = nn.Linear(2 * d, V)

    def encode(self, source: Tensor) -> Tensor:
        return self.encoder(self.embedding(source))[0]  # (B, S, D)

    def decode(self, ids: Tensor, memory: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.decoder(self.embedding(ids), hidden.unsqueeze(0).contiguous())  # (B, T, D)
        weights = (states @ memory.mT / memory.size(-1) ** 0.5).softmax(-1)  # (B, T, S)
        return self.output(torch.cat([states, weights @ memory], -1)), last.squeeze(0)


class Translation(Task):
    takes = ("TextPair",)
    kinds = ("encoder_decoder",)
    BOS, END = 1, 2

    def __init__(self) -> None:
        super().__init__(optimizer=_adam, schedule=_constant)
        self.model = Reverser()

    def _step(self, batch: Mapping[str, Any], stage: str) -> StepResult:
        memory = self.model.encode(batch["source"])
        target = batch["target"]
        given = torch.cat([torch.full((target.size(0), 1), self.BOS), target[:, :-1]], 1)
        logits, _ = self.model.decode(given, memory, memory.mean(1))
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
        return StepResult(loss=loss, n=target.numel())

    def metrics(self) -> list[Metric]:
        return [Loss()]

    def bind(self, source: Tensor) -> BoundTranslation:
        """What a decoding strategy continues: this model with these sources read."""
        return BoundTranslation(self, self.model.encode(source))


class BoundTranslation:
    """A GeneratingModel whose rows translate the rows of `memory`."""

    vocab_size = V
    max_seq_len = None
    device = torch.device("cpu")

    def __init__(self, task: Translation, memory: Tensor) -> None:
        self._task, self._memory = task, memory

    def init_state(self, batch_size: int, capacity: int) -> Memory:
        assert batch_size == self._memory.size(0)
        return Memory(self._memory.mean(1), self._memory, torch.zeros(batch_size, dtype=torch.int64))

    def step(self, ids: Tensor, state: Memory, lengths: Tensor | None = None, *, last_only: bool = False) -> StepOutput:
        logits, hidden = self._task.model.decode(ids, state.memory, state.hidden)
        new = Memory(hidden, state.memory, state.lengths + ids.size(1))
        return StepOutput(logits[:, -1:] if last_only else logits, logits, None, new)


def _reversal(generator: torch.Generator) -> dict[str, Any]:
    source = torch.randint(3, V, (B, T - 1), generator=generator)
    target = torch.cat([source.flip(1), torch.full((B, 1), Translation.END)], 1)
    return {"source": source, "target": target, "n_tokens": target.numel()}


def test_sequence_to_sequence_learns_and_decodes_through_the_same_strategies(tmp_path):
    task = Translation()
    _fit(task, Batches(_reversal, 60), tmp_path, steps=500)
    test = _reversal(torch.Generator().manual_seed(9))
    with torch.inference_mode():
        steps = Greedy(penalties=NO_PENALTIES).decode(
            task.eval().bind(test["source"]),
            [[Translation.BOS]] * B,
            end_ids=frozenset({Translation.END}),
            max_new_tokens=T + 2,
            seeds=range(B),
        )
        rows: list[list[int]] = [[] for _ in range(B)]
        for emitted in steps:
            for row, token in zip(rows, emitted.ids, strict=True):
                if token is not None:
                    row.append(token)
    exact = sum(row == target.tolist() for row, target in zip(rows, test["target"], strict=True)) / B
    assert exact > 0.9
    _same_after_loading(task, Translation(), tmp_path)


# --- two networks in one task, as ELECTRA has them


class Replaced(Task):
    """A generator fills masked places, a discriminator says which tokens are not the original (Clark et al. 2020)."""

    takes = ("Text",)
    kinds = ()  # its two networks are its own business
    MASK = 0

    def __init__(self) -> None:
        super().__init__(optimizer=_adam, schedule=_constant)
        self.generator, self.discriminator = _encoder(), _encoder()
        self.fill = nn.Linear(32, V)
        self.judge = nn.Linear(32, 1)

    def _step(self, batch: Mapping[str, Any], stage: str) -> StepResult:
        ids, masked = batch["ids"], batch["masked"]
        guess = self.fill(self.generator(ids.masked_fill(masked, self.MASK)))
        fill_loss = F.cross_entropy(guess[masked], ids[masked], reduction="sum")
        with torch.no_grad():
            corrupted = torch.where(masked, guess.argmax(-1), ids)
        replaced = corrupted != ids
        logits = self.judge(self.discriminator(corrupted)).squeeze(-1)
        judge_loss = F.binary_cross_entropy_with_logits(logits, replaced.float(), reduction="sum")
        right = ((logits > 0) == replaced).sum()
        return StepResult(loss=fill_loss + judge_loss, n=batch["n_tokens"], sums={"correct": right})

    def metrics(self) -> list[Metric]:
        return [Loss(), Accuracy()]


def _runs(generator: torch.Generator) -> dict[str, Any]:
    start = torch.randint(1, V, (B, 1), generator=generator)
    ids = (start + torch.arange(T) - 1) % (V - 1) + 1  # counting upwards: each token follows from any other
    masked = torch.rand((B, T), generator=generator) < 0.2
    return {"ids": ids, "masked": masked, "n_tokens": ids.numel()}


def test_two_networks(tmp_path):
    task = Replaced()
    history = _fit(task, Batches(_runs, 30), tmp_path, steps=600)
    assert history.now.best["loss"] < 0.05
    assert {name.split(".")[0] for name in task.state_dict()} == {"generator", "discriminator", "fill", "judge"}
    _same_after_loading(task, Replaced(), tmp_path)


@pytest.mark.parametrize("make", [Tagging, Translation, Replaced])
def test_compiling_in_place_keeps_the_names(make, monkeypatch):
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *a, **k: compiled.append(self))
    task = make()
    before = list(task.state_dict())
    task.compile_inner()
    assert compiled
    assert task not in compiled
    assert list(task.state_dict()) == before
