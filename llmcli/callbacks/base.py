"""What a callback of llm may know of its run, and its place in the order in which callbacks act."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytorch_lightning as pl

from llmcli.decoding.base import Strategy
from llmcli.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from llmcli.callbacks.history import History


@dataclass(slots=True)
class Context:
    """The run around a callback.

    strategy: how its samples are drawn. prompt: what they continue; a callback that brings its own writes it here.
    """

    folder: Path
    history: History
    tokenizer: Tokenizer
    strategy: Strategy
    prompt: str


class Order(IntEnum):
    """Who acts before whom in the same hook; within one place the order of the config holds."""

    SEED = 0  # what a step draws at random
    MEASURE = 1  # the figures that all others act on
    STOP = 2  # decides before the checkpoint of the last step is written
    SHOW = 3  # with the weights that were validated, before an average gives way to the others again
    ACT = 4  # everything else
    SAVE = 5  # what all others have left
    LEAVE = 6  # after the save


class Callback(pl.Callback):
    """A Lightning callback that says its place, and gets the run before it begins.

    Any other Lightning callback may stand in the config too: it acts at `Order.ACT`.
    """

    order: ClassVar[Order] = Order.ACT

    def attach(self, context: Context) -> None:
        """Take what is needed from the run. Called once, before the fit, in the order of acting."""


# what Lightning calls at every batch; `on_save_checkpoint` and its like it calls without looking
_PER_BATCH = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_validation_batch_start",
    "on_validation_batch_end",
)


def drop_unused_hooks(callbacks: Iterable[pl.Callback]) -> None:
    """Hide the hooks of a batch that a callback of ours leaves empty: Lightning enters a profiler for each of them, at
    every step, but passes over what cannot be called.

    On the object and not its class, so that `super().on_train_batch_end(...)` goes on to work.
    """
    for callback in callbacks:
        if isinstance(callback, Callback):
            for name in _PER_BATCH:
                if getattr(type(callback), name) is getattr(pl.Callback, name) and name not in vars(callback):
                    setattr(callback, name, None)


def in_order(callbacks: list[pl.Callback]) -> list[pl.Callback]:
    """The callbacks as they must act."""
    return sorted(callbacks, key=lambda each: each.order if isinstance(each, Callback) else Order.ACT)
