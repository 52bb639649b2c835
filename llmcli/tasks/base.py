"""The one small base of every task: a LightningModule whose loss is the mean over all tokens of an optimizer step."""

from __future__ import annotations

import gc
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from llmcli.data.records import Record
from llmcli.errors import LLMError
from llmcli.metrics.base import Metric
from llmcli.optim.groups import take_settings
from llmcli.tasks.micro_batches import fitting, is_out_of_memory, parts, rows_of, width
from llmcli.tokenizers.base import Tokenizer

Stage = Literal["train", "val"]
Batch = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one batch contributes: sums, so that batches of any size add up.

    loss: sum over `n` targets (nats), with its graph in training. sums: further sums for the metrics, no graph.
    tokens: how much text that was, where it is not as many tokens as targets. Validating examples, also: each, what
    every example contributes to `loss`, `n` and `sums`, (B, ...) by those names; outputs, (B, ...), what `outcomes`
    makes the task's answers of.
    """

    loss: Tensor
    n: int
    sums: dict[str, Tensor] = field(default_factory=dict)
    tokens: int | None = None
    each: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_examples(
        cls,
        each: Mapping[str, Tensor],
        *,
        n: int,
        tokens: int | None = None,
        sums: Mapping[str, Tensor] | None = None,
        outputs: Mapping[str, Tensor] | None = None,
    ) -> StepResult:
        """Of a validation batch: its sums are those of what each example adds, `each`, where `n` left out is 1.

        sums: further ones, which no interval is made of.
        """
        totals = {name: value.sum(0) for name, value in each.items() if name != "n"}
        return cls(
            loss=totals.pop("loss"),
            n=n,
            sums={**totals, **(sums or {})},
            tokens=tokens,
            each={"n": torch.ones_like(each["loss"]), **each},
            outputs=dict(outputs or {}),
        )

    @property
    def text(self) -> int:
        """Tokens of text that the batch stands for."""
        return self.n if self.tokens is None else self.tokens


@runtime_checkable
class ScoresExamples(Protocol):
    """A task that says what became of single examples; `llm eval` writes it down.

    outcomes: for each record of the batch of `result` a dict of plain values, with names instead of ids: `text` (or
    `texts`), `true`, `predicted`, `right` (bool), `loss`, and whatever else there is to know. What stands in a text is
    `spans`: {"start", "end", "label", "kind"}, in characters, kind "true", "predicted" or "both".
    """

    def outcomes(self, records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class _Begun:
    """The first part of a batch after its forward pass.

    loss: with its graph, of which `leaf` is the value. rest: the other parts.
    """

    result: StepResult
    loss: Tensor
    leaf: Tensor
    rest: list[dict[str, Any]]


_PLAIN = frozenset((str, int, float, bool, type(None), _Begun))  # types of attributes that are no part of a module


class Task(pl.LightningModule, ABC):
    """Subclasses implement `_step`, `metrics` and say what they take.

    takes: the kinds of record (`data.records`) it learns from. kinds: the backbone kinds it works with, and `causal`
    the direction it needs (None: either). A batch carries `n_tokens`, the number of its targets as a Python int.
    """

    takes: ClassVar[tuple[str, ...]]
    kinds: ClassVar[tuple[str, ...]]
    needs_causal: ClassVar[bool | None] = None
    calls: ClassVar[tuple[str, ...]] = ()  # methods of the model that it calls, which not every backbone has
    learns_from: ClassVar[str] = "windows"  # what its batches hold, as a data module's `gives` says
    monitor: str = "val_loss"  # the metric that decides which weights are best, after "val_"
    # what its figures stand beside (`llmcli.floor`)
    floor: ClassVar[Literal["ngrams", "linear", "words", "tags"] | None] = None
    asks: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)  # ways to ask `predict`: names of what it is told
    head_kind: ClassVar[str | None] = None  # tasks of the same kind can begin with each other's heads
    needs_init: ClassVar[bool] = False  # it goes on from a run that can do something already: init=RUN
    rows_apart: ClassVar[bool] = False  # any rows of a batch can go through the model without the others
    single_pass: ClassVar[bool] = False  # nothing is optimised: one batch, one validation, whatever the budget

    def __init__(
        self,
        *,
        optimizer: Callable[[nn.Module], Optimizer] | None,
        schedule: Callable[[float, int], float] | None,
    ) -> None:
        super().__init__()
        self._optimizer = optimizer
        self._schedule = schedule
        # Set by the program before fit: consumed fraction of the budget at an optimizer step, in [0, 1].
        self.progress: Callable[[int], float] = lambda step: 0.0
        # Targets of one full micro-batch; what the summed loss of each is divided by where several make a step.
        self.nominal_tokens = 1
        # Units of the validation text per target ("bytes", "characters"), for bits per byte.
        self.text_per_target: Mapping[str, float] = {}
        self.saved: Path | None = None  # the newest checkpoint of the run
        self.run_state: dict[str, Any] = {}  # what makes the checkpoint whole: config, tokenizer, versions
        # Rows that go through the model at a time, None: all of a batch, "auto": as many as fit; tokens of them with
        # their padding, None: any number. What is found is in rows where all batches are of `one_length`, otherwise in
        # tokens; and who is told that it was found, and whether because memory ran out.
        self.micro_batch: int | Literal["auto"] | None = None
        self.micro_tokens: int | None = None
        self.one_length = True
        self.on_micro_batch: Callable[[bool], None] = lambda out_of_memory: None
        self._begun: _Begun | None = None
        self._of_step: list[tuple[Batch, int]] = []  # batches of the optimizer step in hand, and their seeds
        self._step_tokens = 0  # targets seen since the last optimizer step
        self.tokens_seen = 0
        self._losses: list[tuple[int, int, Tensor, int]] = []  # (step, batch index, summed loss, n) not yet read
        self._val: Sequence[Metric] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        """As ever, but quick for a plain value in the place of another, which is no parameter, buffer or module:
        the name of the hook that is called is written down at each of them.
        """
        if type(value) in _PLAIN and name in self.__dict__:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # -- what a task writes ------------------------------------------------------------------------------------

    @abstractmethod
    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        """Loss and sums of one batch; the same code for training and validation."""

    @abstractmethod
    def metrics(self) -> Sequence[Metric]:
        """New metrics for one pass over a split, fed with the sums of `_step`; one of them is the `monitor`."""

    def by_class(self, sums: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Figures of each class, type or group by its name, from the sums of a split; empty where there are none."""
        return {}

    @property
    def generates(self) -> bool:
        """Whether text comes out of it: it has `step`, to continue one, or `bind`, to turn one into another."""
        return hasattr(self, "step") or hasattr(self, "bind")

    def as_prompt(self, text: str, tokenizer: Tokenizer) -> str | list[int]:
        """What it continues where it shall answer to a text: that text, or the ids that are made of it."""
        return text

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the `monitor` is better."""
        [monitored] = [metric for metric in self.metrics() if f"val_{metric.name}" == self.monitor]
        return monitored.higher_is_better

    def compile_inner(self) -> None:
        """Compile the networks in place (which keeps the checkpoint's keys), never the LightningModule itself."""
        for child in self.children():
            if any(True for _ in child.parameters()):
                child.compile()

    @property
    def carries_state(self) -> bool:
        """Whether the rows of a batch must continue those of the batch before."""
        return False

    @property
    def loss_unit(self) -> str:
        """Of the mean loss of a target, for tables and curves."""
        return "nats/token"

    @property
    def width(self) -> int:
        """Features of the widest stream of hidden states, by which the precision is chosen; 0: nothing to choose."""
        return 0

    # -- training ----------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """A resumed run may have been given another rate, decay or momentum, which the checkpoint has just undone."""
        optimizer, scheduler = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        if isinstance(optimizer, Optimizer) and isinstance(scheduler, LambdaLR) and self._optimizer is not None:
            take_settings(self._optimizer(self), optimizer, scheduler)

    def configure_optimizers(self) -> Any:
        assert self._optimizer is not None and self._schedule is not None, "built for evaluation, not for training"
        optimizer = self._optimizer(self)
        schedule, progress = self._schedule, self.progress
        scheduler = LambdaLR(optimizer, lambda step: schedule(progress(step), step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self._alone:
            return self._begin_batch(batch, first=batch_idx % self.trainer.accumulate_grad_batches == 0)
        result = self._step(batch, "train")
        self._count(batch, [result])
        return result.loss / self.divisor(result.n)

    # Lightning asks for it at every step, and inspect takes longer to work it out than many a hook takes to run
    training_step.__signature__ = inspect.signature(training_step)  # type: ignore[attr-defined]  # PEP 362

    def _count(self, batch: Batch, results: Sequence[StepResult]) -> None:
        """Note what a batch came to, in one part or several."""
        n = sum(result.n for result in results)
        self._step_tokens += n
        self.tokens_seen += sum(result.text for result in results)
        losses = [result.loss.detach() for result in results]
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        self._losses.append((self.trainer.global_step, int(batch["index"]), loss, n))
        # reading it costs nothing on the CPU; an accelerator is read at log intervals
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            self._refuse_non_finite(self._losses[-1:])

    # -- a batch in parts --------------------------------------------------------------------------------------

    @property
    def _alone(self) -> bool:
        """Whether a batch can be taken apart, and done once more in smaller parts where memory runs out.

        Not with others, which would wait for this process in vain.
        """
        one_device = isinstance(self.trainer.strategy, pl.strategies.SingleDeviceStrategy)
        return self.rows_apart and not self.carries_state and one_device

    def _begin_batch(self, batch: Batch, *, first: bool) -> Tensor:
        """The forward pass of the first part -> a leaf that Lightning scales and goes back to, `backward` from there.

        first: of an optimizer step. Only what is returned has no graph, so that a failed pass leaves nothing behind.
        """
        if first:
            self._of_step.clear()
            optimizer = self.optimizers(use_pl_optimizer=False)
            if isinstance(optimizer, Optimizer):  # not after the forward pass, as Lightning would: they are large
                self.on_before_zero_grad(optimizer)
                optimizer.zero_grad()
        self._of_step.append((batch, torch.initial_seed()))  # as `StepSeeds` has just set it
        self._begun = None  # of a fit that ended between forward and backward
        if self.micro_batch == "auto":
            self._find_micro_batch(batch)
        while self._begun is None:
            try:
                first_part, *rest = parts(dict(batch), self.rows_at_a_time(batch))
                result = self._step(first_part, "train")
                loss = result.loss / self.divisor(batch["n_tokens"])
                self._begun = _Begun(result, loss, loss.detach().requires_grad_(), rest)
            except (RuntimeError, MemoryError) as err:
                self._refuse_unless_smaller_helps(err, batch)
            if self._begun is None:
                self._halve(batch)
                torch.manual_seed(self._of_step[-1][1])
        return self._begun.leaf

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        if self._begun is None:  # otherwise done before the forward pass
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def rows_at_a_time(self, batch: Batch) -> int | None:
        """How many of a batch go through the model at a time; None: all."""
        rows = None if self.micro_batch == "auto" else self.micro_batch
        if self.micro_tokens is None:
            return rows
        fit = max(1, self.micro_tokens // width(dict(batch)))
        return fit if rows is None else min(rows, fit)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's, and from its leaf through the graph of the first part, then the other parts one by one."""
        begun, self._begun = self._begun, None
        if begun is None or loss is not begun.leaf:
            super().backward(loss, *args, **kwargs)
        if begun is None:
            return
        factor = begun.leaf.grad  # of accumulation and of float16's scale; None: neither
        batch, _ = self._of_step[-1]
        waiting = [begun]
        del begun
        while True:
            try:
                results = self._through(batch, factor, waiting.pop() if waiting else None)
            except (RuntimeError, MemoryError) as err:
                self._refuse_unless_smaller_helps(err, batch)
            else:
                self._count(batch, results)
                return
            # out of the handler: what its traceback held is free
            self._halve(batch)
            self.zero_grad()
            while not self._once_more(self._of_step[:-1], factor):
                self._halve(batch)
                self.zero_grad()
            torch.manual_seed(self._of_step[-1][1])

    def _once_more(self, batches: Sequence[tuple[Batch, int]], factor: Tensor | None) -> bool:
        """The earlier batches of the step, whose gradients were mixed with those of a failed pass; False: no memory."""
        try:
            for batch, seed in batches:
                torch.manual_seed(seed)
                self._through(batch, factor, None)
        except (RuntimeError, MemoryError) as err:
            self._refuse_unless_smaller_helps(err, batches[0][0])
            return False
        return True

    def _through(self, batch: Batch, factor: Tensor | None, begun: _Begun | None) -> list[StepResult]:
        """All parts of a batch forwards and backwards, the first from where it was `begun`; results without graphs."""
        divisor, results = self.divisor(batch["n_tokens"]), []
        left = parts(dict(batch), self.rows_at_a_time(batch)) if begun is None else begun.rest
        if begun is not None:
            begun.loss.backward(factor)  # type: ignore[no-untyped-call]
            results.append(replace(begun.result, loss=begun.result.loss.detach()))
            del begun
        for part in left:
            with self.trainer.precision_plugin.forward_context():
                result = self._step(part, "train")
                loss = result.loss / divisor
            loss.backward(factor)  # type: ignore[no-untyped-call]
            results.append(replace(result, loss=result.loss.detach()))
            del result, loss  # their graph, before the next one's
        return results

    def _refuse_unless_smaller_helps(self, err: BaseException, batch: Batch) -> None:
        """Raise what is no lack of memory again; and a lack of it for a single row, as the user's to mend."""
        if not is_out_of_memory(err):
            raise err
        if (self.rows_at_a_time(batch) or rows_of(dict(batch))) <= 1:
            raise LLMError(
                "there is not enough memory for one row of a batch",
                "a smaller model or batch.seq_len, or trainer.checkpoint_activations=true",
            ) from err

    def _halve(self, batch: Batch) -> None:
        count = rows_of(dict(batch))
        half = max(1, -(-min(self.rows_at_a_time(batch) or count, count) // 2))
        if self.one_length:
            self.micro_batch = half
        else:
            self.micro_tokens = half * width(dict(batch))
            self.micro_batch = None if self.micro_batch == "auto" else self.micro_batch  # it is found now
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.on_micro_batch(True)

    def _find_micro_batch(self, batch: Batch) -> None:
        """As many rows as fit: on a GPU all, halved where they do not; elsewhere by a trial of one and two rows."""
        count, found = rows_of(dict(batch)), None
        if count == 1 and not self.one_length:
            return  # nothing to find it with; the next batch may have more
        if self.device.type == "cpu":
            weights = sum(p.numel() * p.element_size() for p in self.parameters() if p.requires_grad)
            found = fitting(dict(batch), self._try, device=self.device, reserved=2 * weights)
            self.zero_grad()
            torch.manual_seed(self._of_step[-1][1])
        self.micro_batch = None  # all of a batch is no number: others may have more rows
        if found is not None and not self.one_length:
            self.micro_tokens = found * width(dict(batch))
        elif found is not None and found < count:
            self.micro_batch = found
        self.on_micro_batch(False)

    def _try(self, part: Batch) -> None:
        # a graph for sizes that do not come again takes minutes, and what compiling takes is no memory of the step
        with torch.compiler.set_stance("force_eager"):
            self._step(part, "train").loss.backward()  # type: ignore[no-untyped-call]

    def divisor(self, n: int) -> float:
        """What the summed loss of a micro-batch of n targets is divided by."""
        return max(1, n) if self._is_whole_step else self.nominal_tokens

    @property
    def _is_whole_step(self) -> bool:
        """Whether each micro-batch is a step of its own: its loss is a mean, and no gradient is touched again."""
        return bool(self.trainer.accumulate_grad_batches == 1 and self.trainer.world_size == 1)

    def take_losses(self) -> float | None:
        """Mean loss in nats per target since the last call (None: no batch since), checked to be finite."""
        if not self._losses:
            return None
        self._refuse_non_finite(self._losses)
        total = float(torch.stack([loss.double() for _, _, loss, _ in self._losses]).sum())
        n = sum(n for *_, n in self._losses)
        self._losses.clear()
        return total / max(1, n)

    def _refuse_non_finite(self, losses: list[tuple[int, int, Tensor, int]]) -> None:
        values = torch.stack([loss for _, _, loss, _ in losses])
        if bool(torch.isfinite(values).all()):
            return
        step, index, loss, _ = next(item for item in losses if not bool(torch.isfinite(item[2])))
        self._losses.clear()
        raise LLMError(
            f"the loss became {float(loss)} at step {step} (batch {index} of epoch {self.current_epoch}, "
            f"seed {self.run_state.get('seed', '?')})",
            self._way_out(),
        )

    def _way_out(self) -> str:
        """What to do about figures that are not finite: an exact continuation would come to them again."""
        if self.saved is None:
            return "nothing is saved yet; start again with a lower optimizer.lr or trainer.clip_norm=1"
        return (
            f"{self.saved} is kept; with a lower rate or tighter clipping the run can go on from there: "
            f"llm train resume={self.saved.parent.parent} optimizer.lr=LR trainer.clip_norm=1"
        )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn the sum of per-batch means into the mean over all targets of the step, over micro-batches and ranks.

        Lightning has divided by the number of micro-batches and DDP by the number of ranks; every micro-batch was
        divided by `nominal_tokens`. Only where the true count differs is there anything to mend.
        """
        total = self._step_tokens
        self._step_tokens = 0
        if self._is_whole_step:
            return
        nominal = self.nominal_tokens * self.trainer.accumulate_grad_batches
        if self.trainer.world_size > 1:
            nominal *= self.trainer.world_size
            counts = torch.tensor(float(total)).to(self.device, non_blocking=True)
            # stays on the device, so that no step waits for it
            ratio = nominal / self.trainer.strategy.reduce(counts, reduce_op="sum").clamp(min=1.0)
        elif total in (nominal, 0):
            return
        else:
            ratio = nominal / total
        torch._foreach_mul_([p.grad for p in self.parameters() if p.grad is not None], ratio)

    # -- validation --------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._val = self.metrics()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        n = self.accumulate(self._val, batch)
        for metric in self._val:
            metric.update({unit: ratio * n for unit, ratio in self.text_per_target.items()})

    def accumulate(
        self, metrics: Sequence[Metric], batch: Batch, seen: Callable[[Batch, StepResult], None] | None = None
    ) -> int:
        """Add one batch's loss and sums to the metrics, on the device; returns its tokens.

        seen: is shown the batch and its result, for what `llm eval` says about single examples.
        """
        result = self._step(batch, "val")
        for metric in metrics:
            metric.update({"loss": result.loss, "n": result.n, **result.sums})
        if seen is not None:
            seen(batch, result)
        return result.text

    def on_validation_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            for metric in self._val:
                metric.reduce(lambda sums: self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum"))
        self.log_dict({f"val_{name}": value for name, value in figures(self._val).items()}, batch_size=1)

    # -- checkpoints -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, value in checkpoint["state_dict"].items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise LLMError(f"the weights {name} are no longer finite; they are not saved", self._way_out())
        checkpoint["llm"] = {**self.run_state, "tokens_seen": self.tokens_seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.tokens_seen = int(checkpoint["llm"]["tokens_seen"])


def figures(metrics: Sequence[Metric]) -> dict[str, float]:
    """Name -> figure of the metrics that have one."""
    found = {metric.name: metric.compute() for metric in metrics}
    return {name: value for name, value in found.items() if value is not None}
