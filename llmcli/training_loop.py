"""Lightning's loop over the batches of an epoch, of which a step runs only what something is done in.

Lightning enters a profiler, formats a line for its log and looks up the same properties around each of some twenty
hooks of a step, whether anything is called there or not. Here the same hooks are called in the same order, by the same
counters, with nothing around them. It is written for the releases that `RELEASES` names, and takes Lightning's own way
with any other, with several devices, float16's scaler, a logger or profiler of Lightning's, and for the first batch
after a resume. `tests/test_training_loop.py` compares the two hook by hook: what passes there may be named. Callbacks
that come or go in a step are heard of from the next one on; a hook that is put on an object in an epoch, in the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.__version__ import version
from pytorch_lightning.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from pytorch_lightning.loops.optimization.automatic import ClosureResult
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import HalfPrecision, MixedPrecision, Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import Optimizer

Hook = Callable[..., Any]

RELEASES = ("2.6.",)
# hooks of a module that decide whether there is a step; who overrides one gets Lightning's own way
_ANSWERED = ("on_train_batch_start", "optimizer_step")
# hooks of callbacks and of the module; who has not written one is not called at each step to do nothing
_CALLED = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def shorten(trainer: pl.Trainer) -> None:
    """Let the trainer's steps run through `ShortEpochLoop`, where it is written for the Lightning that is installed."""
    if version.startswith(RELEASES):
        given = trainer.fit_loop.epoch_loop
        trainer.fit_loop.epoch_loop = ShortEpochLoop(trainer, min_steps=given.min_steps, max_steps=given.max_steps)


class ShortEpochLoop(_TrainingEpochLoop):
    """Lightning's, with its `advance` and `on_advance_end` for one device cut to what acts there."""

    _short = False

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        self._short = self._can_be_short(data_fetcher)
        if self._short:
            trainer = self.trainer
            hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
            selector = trainer._data_connector._datahook_selector
            assert selector is not None
            before, transfer, after = (getattr(selector.get_instance(name), name) for name in hooks)
            self._before: Callable[[Any, int], Any] = before
            self._transfer: Callable[[Any, torch.device, int], Any] = transfer
            self._after: Callable[[Any, int], Any] = after
            self._module, self._plugin = trainer.lightning_module, trainer.precision_plugin
            self._device = trainer.strategy.root_device
            self._look_for_hooks()

    def _on_before_fetch(self) -> None:
        if not self._short:
            super()._on_before_fetch()

    def _on_after_fetch(self) -> None:
        if not self._short:
            super()._on_after_fetch()

    def _can_be_short(self, data_fetcher: _DataFetcher) -> bool:
        trainer, module = self.trainer, self.trainer.lightning_module
        plugin = trainer.precision_plugin
        unscaled = type(plugin) in (Precision, HalfPrecision) or (
            type(plugin) is MixedPrecision and plugin.scaler is None
        )
        return (
            unscaled
            and type(data_fetcher) is _PrefetchDataFetcher
            and type(trainer.strategy) is SingleDeviceStrategy
            and isinstance(trainer.profiler, PassThroughProfiler)
            and not trainer.loggers
            and trainer._val_check_time_interval is None
            and module.automatic_optimization
            and not any(_overridden(module, name) for name in _ANSWERED)
            and all(each.interval == "step" and not each.reduce_on_plateau for each in trainer.lr_scheduler_configs)
        )

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if not self._short or self.restarting:
            return super().advance(data_fetcher)
        self.val_loop.restarting = False
        trainer, progress = self.trainer, self.batch_progress
        if trainer.callbacks != self._callbacks:
            self._look_for_hooks()
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        batch = self._before(self._plugin.convert_input(batch), 0)
        batch = self._after(self._transfer(batch, self._device, 0), 0)
        progress.increment_ready()
        connector, results = trainer._logger_connector, self._results
        connector.on_batch_start(batch)
        self._call("on_train_batch_start", batch, batch_idx)
        progress.increment_started()
        steps = not self._should_accumulate()
        output = self._optimise(batch, batch_idx, steps=steps)
        progress.increment_processed()
        if steps:
            for config in trainer.lr_scheduler_configs:
                if (batch_idx + 1) % config.frequency == 0:
                    self.scheduler_progress.increment_ready()
                    self._ask("lr_scheduler_step", config.scheduler, None)
                    self.scheduler_progress.increment_completed()
        self._call("on_train_batch_end", output, batch, batch_idx)
        if results:  # somebody logs
            connector.on_batch_end()
        else:
            results.batch = results.batch_size = None
        progress.increment_completed()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        trainer, every = self.trainer, self.trainer.val_check_batch
        ends = trainer.should_stop or self.batch_progress.is_last_batch or trainer.received_sigterm
        after = self.total_batch_idx + 1
        # what is due is decided by Lightning
        if not self._short or ends or self._skip_next_val or every is None or after % every == 0:
            super().on_advance_end(data_fetcher)
        elif not self._should_accumulate():
            self._batches_that_stepped += 1

    def _look_for_hooks(self) -> None:
        self._callbacks = list(self.trainer.callbacks)
        self._hooks = {name: _written(self.trainer, name) for name in _CALLED}

    def _call(self, name: str, *given: Any) -> None:
        """A hook of all callbacks and then of the module, which know by its name where they log."""
        of_callbacks, of_module = self._hooks[name]
        trainer, module = self.trainer, self._module
        module._current_fx_name = name
        for hook in of_callbacks:
            hook(trainer, module, *given)
        if of_module is not None:
            of_module(*given)
        module._current_fx_name = None

    def _ask(self, name: str, *given: Any, **named: Any) -> None:
        """A hook that only the module has."""
        self._module._current_fx_name = name
        getattr(self._module, name)(*given, **named)
        self._module._current_fx_name = None

    def _optimise(self, batch: Any, batch_idx: int, *, steps: bool) -> dict[str, Any]:
        """Forwards, backwards and, where that ends an accumulation, the optimizer's step -> what callbacks get."""
        optimizer = self.trainer.strategy._lightning_optimizers[0]
        results: list[ClosureResult] = []

        def closure() -> Tensor | None:
            with torch.enable_grad():  # optimizers call it within no_grad
                results.append(self._forwards_and_backwards(optimizer.optimizer, batch, batch_idx))
            if steps:
                self._call("on_before_optimizer_step", optimizer.optimizer)
                self._clip(optimizer.optimizer)
            return results[-1].loss

        if not steps:
            closure()
        else:
            progress = self.automatic_optimization.optim_progress.optimizer.step
            progress.increment_ready()
            optimizer._on_before_step()
            optimizer.optimizer.step(closure=closure)
            optimizer._on_after_step()
            assert results, f"{type(optimizer.optimizer).__name__}.step has not called its closure"
            progress.increment_completed()
        return {} if results[-1].loss is None else results[-1].asdict()

    def _clip(self, optimizer: Optimizer) -> None:
        value, algorithm = self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm
        if any(_overridden(self._module, name) for name in ("configure_gradient_clipping", "clip_gradients")):
            given = {"gradient_clip_val": value, "gradient_clip_algorithm": algorithm}
            self._ask("configure_gradient_clipping", optimizer, **given)
        elif value:  # what Lightning's own hook comes to
            self._plugin.clip_gradients(optimizer, value, GradClipAlgorithmType(algorithm or "norm"))

    def _forwards_and_backwards(self, optimizer: Optimizer, batch: Any, batch_idx: int) -> ClosureResult:
        trainer = self.trainer
        self._module._current_fx_name = "training_step"
        output = trainer.strategy.training_step(batch, batch_idx)  # in the context of the precision
        if isinstance(output, Tensor) and trainer.accumulate_grad_batches == 1:
            result = ClosureResult(output)
        else:
            result = ClosureResult.from_training_step_output(output, trainer.accumulate_grad_batches)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            progress = self.automatic_optimization.optim_progress.optimizer.zero_grad
            progress.increment_ready()
            self._call("on_before_zero_grad", optimizer)
            progress.increment_started()
            self._ask("optimizer_zero_grad", trainer.current_epoch, batch_idx, optimizer)
            progress.increment_completed()
        if result.closure_loss is not None:
            self._call("on_before_backward", result.closure_loss)
            self._ask("backward", result.closure_loss)
            self._call("on_after_backward")
        return result


def _overridden(module: pl.LightningModule, name: str) -> bool:
    return getattr(getattr(module, name), "__func__", None) is not getattr(pl.LightningModule, name)


def _written(trainer: pl.Trainer, name: str) -> tuple[list[Hook], Hook | None]:
    """The hooks of this name that somebody has written: of the callbacks, in their order, and of the module."""
    hooks = [getattr(callback, name) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    own, module = getattr(pl.Callback, name), trainer.lightning_module
    of_module = getattr(module, name) if _overridden(module, name) else None
    return (
        [hook for hook in hooks if callable(hook) and getattr(hook, "__func__", None) is not own],
        of_module if callable(of_module) else None,
    )
