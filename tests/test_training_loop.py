"""The short loop against Lightning's own: the same hooks with the same arguments, counters, weights, at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from llmcli import assembly, checkpoint, config, training_loop
from llmcli.trainer import build_trainer, quiet_lightning
from llmcli.training_loop import ShortEpochLoop

TINY = ["optimizer=adamw", "model.n_heads=2", "model.ngram_rows=[]", "model.dropout=0.1", "trainer.max_steps=7"]
# of a module, but those with which it gets Lightning's own way
MODULE_HOOKS = (
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "configure_gradient_clipping",
    "optimizer_zero_grad",
    "training_step",
    "backward",
    "lr_scheduler_step",
    "on_validation_batch_end",
    "on_train_epoch_end",
)


def plain(value: Any) -> Any:
    """What a hook was given, so that it can be compared."""
    if isinstance(value, Tensor):
        return value.detach().tolist()
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value if isinstance(value, str | int | float | type(None)) else type(value).__name__


class Recorder(pl.Callback):
    """Every hook of callbacks and the module: its name, what it was given, where the module says it is, counters."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        for name in dir(pl.Callback):
            if name.startswith("on_") and "checkpoint" not in name:
                setattr(self, name, self._hook(name))

    def _hook(self, name: str) -> Any:
        def called(trainer: pl.Trainer, module: pl.LightningModule, *given: Any, **named: Any) -> None:
            loop = trainer.fit_loop
            weights = float(sum(p.detach().double().sum() for p in module.parameters()))
            gradients = [None if p.grad is None else float(p.grad.double().norm()) for p in module.parameters()]
            place = (trainer.global_step, trainer.current_epoch, trainer.is_last_batch, module._current_fx_name)
            self.seen.append((name, plain(given), plain(named), place, weights, gradients, plain(loop.state_dict())))

        return called

    def follow(self, module: pl.LightningModule) -> None:
        for name in MODULE_HOOKS:
            setattr(module, name, self._of_module(module, name, getattr(module, name)))

    def _of_module(self, module: pl.LightningModule, name: str, hook: Any) -> Any:
        def called(*given: Any, **named: Any) -> Any:
            self.seen.append((f"module {name}", plain(given), plain(named), module._current_fx_name))
            return hook(*given, **named)

        return called


class Logs(pl.Callback):
    """As a user's may: a value of each step, and the epoch's mean of another."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.log("mine", float(batch_idx), on_step=True, batch_size=1)
        assert trainer.callback_metrics["mine"] == batch_idx

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        pl_module.log("before", loss.detach(), on_step=False, on_epoch=True, batch_size=1)


def fitted(given: list[str], folder: Path, *, more: list[pl.Callback], resume: str | None = None) -> Any:
    """The trainer after a fit, and all that was seen of it."""
    quiet_lightning()
    cfg = config.capture("train", given)
    assert cfg is not None
    parts = assembly.build(cfg, config.launch().choices)
    folder.mkdir(exist_ok=True)
    parts.task.run_state = checkpoint.whole(
        config=config.resolved(parts.config),
        choices=parts.choices,
        tokenizer=parts.prepared.tokenizer,
        manifest=parts.prepared.manifest,
        seed=int(cfg.seed),
        ranks=1,
    )
    _, callbacks, _ = assembly.callbacks(parts, folder)
    recorder = Recorder()
    recorder.follow(parts.task)
    trainer = build_trainer(parts.settings, callbacks=[recorder, *more, *callbacks], folder=folder)
    trainer.fit(parts.task, datamodule=parts.data, ckpt_path=resume, weights_only=True)
    return trainer, recorder.seen, {name: value.clone() for name, value in parts.task.state_dict().items()}


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["trainer.accumulate=3", "trainer.clip_norm=null", "optimizer=muon"],
        ["trainer.precision=bf16-mixed", "trainer.micro_batch=2", "trainer.accumulate=2"],
        ["trainer.precision=bf16-true", "callbacks=ema", "callbacks.ema.start_step=2"],
        ["batch.size=100", "batch.seq_len=64", "trainer.accumulate=2", "trainer.max_steps=6"],  # into a second epoch
        ["model=lstm", "model.d_hidden=8", "schedule=constant"],
    ],
    ids=" ".join,
)
def test_the_same_is_called_and_learnt(
    small: list[str], given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*small, *(TINY if "model=lstm" not in given else ["trainer.max_steps=7"]), "trainer.val_every=3", *given]
    short, seen, weights = fitted(given, tmp_path / "short", more=[Logs()])
    monkeypatch.setattr(training_loop, "RELEASES", ())
    theirs, expected, of_theirs = fitted(given, tmp_path / "theirs", more=[Logs()])
    assert isinstance(short.fit_loop.epoch_loop, ShortEpochLoop) and short.fit_loop.epoch_loop._short
    assert not isinstance(theirs.fit_loop.epoch_loop, ShortEpochLoop)
    assert len(seen) > 100
    for ours, other in zip(seen, expected, strict=True):
        assert ours == other
    assert all(torch.equal(value, of_theirs[name]) for name, value in weights.items())
    metrics = (plain(dict(trainer.callback_metrics)) for trainer in (short, theirs))
    assert next(metrics) == next(metrics)
    assert plain(short.fit_loop.state_dict()) == plain(theirs.fit_loop.state_dict())


def test_the_same_is_called_after_a_resume(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    given = [*small, *TINY, "trainer.val_every=3", "trainer.accumulate=2"]
    fitted(given, tmp_path / "before", more=[Saves()])
    saved = str(tmp_path / "saved.ckpt")
    short, seen, weights = fitted(given, tmp_path / "short", more=[], resume=saved)
    monkeypatch.setattr(training_loop, "RELEASES", ())
    _, expected, of_theirs = fitted(given, tmp_path / "theirs", more=[], resume=saved)
    assert short.fit_loop.epoch_loop._short
    assert seen == expected and len(seen) > 50
    assert all(torch.equal(value, of_theirs[name]) for name, value in weights.items())


class Line(pl.LightningModule):
    """A module of somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(1, 1), 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.seen += 1
        if batch_idx == 1:
            return None  # no step
        return {"loss": self.layer(batch).square().mean(), "more": batch_idx}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Always(Line):
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.layer(batch).square().mean()


class Stops(Line):
    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None


class OwnStep(Line):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer_closure()  # and no step


def lines(module: Line, *, short: bool, **given: Any) -> tuple[pl.Trainer, list[float]]:
    quiet_lightning()
    torch.manual_seed(1)
    nn.init.constant_(module.layer.weight, 0.5)
    nn.init.constant_(module.layer.bias, 0.25)
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, enable_model_summary=False, **{**silent, **given})
    if short:
        training_loop.shorten(trainer)
    trainer.fit(module, torch.utils.data.DataLoader(torch.arange(10.0)[:, None], batch_size=2))
    return trainer, [module.layer.weight.item(), module.layer.bias.item(), module.seen]


@pytest.mark.parametrize("algorithm", ["norm", "value", None])
def test_gradients_are_clipped_as_lightning_does(algorithm: str | None) -> None:
    clipped = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}
    trainer, found = lines(Always(), short=True, **clipped)
    assert trainer.fit_loop.epoch_loop._short
    assert found == lines(Always(), short=False, **clipped)[1] != lines(Always(), short=True)[1]


class OwnClip(Line):
    def clip_gradients(self, *given: Any, **named: Any) -> None:
        self.seen += 100


def test_an_own_way_to_clip_is_asked() -> None:
    found = lines(OwnClip(), short=True)[1]
    assert found == lines(OwnClip(), short=False)[1] and found[-1] > 500


class Counts(pl.Callback):
    """Called until its second batch has ended, when another one takes its place."""

    def __init__(self, after: pl.Callback | None = None) -> None:
        self.called, self.after = 0, after

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.called += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.after is not None and self.called == 2:
            trainer.callbacks[trainer.callbacks.index(self)] = self.after


def test_callbacks_come_and_go() -> None:
    counted = []
    for short in (True, False):
        first = Counts(Counts())
        lines(Line(), short=short, callbacks=[first])
        assert first.after is not None
        counted.append((first.called, first.after.called))
    assert counted == [(2, 8), (2, 8)]


def test_a_step_that_gives_a_dict_or_nothing() -> None:
    trainer, found = lines(Line(), short=True, accumulate_grad_batches=2)
    assert trainer.fit_loop.epoch_loop._short
    assert found == lines(Line(), short=False, accumulate_grad_batches=2)[1]


@pytest.mark.parametrize(
    ("module", "given"),
    [
        (Stops, {}),
        (OwnStep, {}),
        (Line, {"profiler": "simple"}),
        (Line, {"logger": pl.loggers.CSVLogger("logs"), "log_every_n_steps": 1}),
        (Line, {"val_check_interval": "00:00:01:00"}),
    ],
)
def test_lightnings_own_way_where_more_is_asked(module: type[Line], given: Any, tmp_path: Path) -> None:
    trainer, found = lines(module(), short=True, default_root_dir=tmp_path, **given)
    assert isinstance(trainer.fit_loop.epoch_loop, ShortEpochLoop) and not trainer.fit_loop.epoch_loop._short
    assert found == lines(module(), short=False, default_root_dir=tmp_path, **given)[1]


def test_an_optimizer_that_forgets_its_closure_is_named() -> None:
    class Forgets(torch.optim.SGD):
        def step(self, closure: Any = None) -> None: ...  # type: ignore[override]

    class Forgetful(Line):
        def configure_optimizers(self) -> Any:
            return Forgets(self.parameters(), lr=0.1)

    with pytest.raises(AssertionError, match=r"Forgets\.step has not called its closure"):
        lines(Forgetful(), short=True)


def test_the_short_loop_is_for_the_release_that_is_installed() -> None:
    """Fails with another Lightning: see that the tests above pass with it, then name it in `RELEASES`."""
    assert pl.__version__.startswith(training_loop.RELEASES)
