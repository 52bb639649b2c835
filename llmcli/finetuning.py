"""The finetune group: which weights learn, from when on, and how fast by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer

from llmcli.callbacks.unfreezing import Unfreezing
from llmcli.errors import InputError
from llmcli.optim.layers import decay_rates, depths, freeze, learning_layers

MakeOptimizer = Callable[[nn.Module], Optimizer]


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """What a run that begins with the weights of another usually does with them; a new model may be trained so too.

    freeze: patterns of the names of parameters that stay as they are. layer_decay: the rate of a layer is that of the
    layer above it times this. unfreeze_every: the layers begin to learn one after another, from the heads down: epochs
    from one to the next, below 1 the fraction of the budget after which all do; None: all from the start. Dropout acts
    in frozen layers as in others: on what the layers above it see, it is still a regulariser.

    Raises InputError for values that cannot be.
    """

    freeze: list[str]
    layer_decay: float
    unfreeze_every: float | None

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"finetune.layer_decay ({self.layer_decay}) must be above 0 and at most 1")
        if self.unfreeze_every is not None and self.unfreeze_every <= 0:
            raise InputError(
                f"finetune.unfreeze_every ({self.unfreeze_every}) must be above 0",
                "finetune.unfreeze_every=null lets all layers learn from the start",
            )

    def optimizer(self, make: MakeOptimizer) -> MakeOptimizer:
        """The optimizer of a task, with the rates of its layers."""
        if self.layer_decay == 1:
            return make

        def layerwise(task: nn.Module) -> Optimizer:
            optimizer = make(task)
            decay_rates(optimizer, depths(task), self.layer_decay)
            return optimizer

        return layerwise

    def apply(self, task: nn.Module, *, ranks: int) -> None:
        """Freeze what shall be frozen; before the optimizer is made.

        Raises InputError for patterns that match nothing, and for gradual unfreezing on several devices, which have to
        agree before the first step on whose gradients they exchange.
        """
        freeze(task, self.freeze)
        if self.unfreeze_every is None:
            return
        learning_layers(task)  # refuses a model without layers before there is a run folder
        if ranks > 1:
            raise InputError(
                f"finetune.unfreeze_every={self.unfreeze_every} works on one device, and these are {ranks}",
                "trainer.devices=1, or finetune.unfreeze_every=null",
            )

    def callbacks(self) -> list[pl.Callback]:
        return [] if self.unfreeze_every is None else [Unfreezing(every=self.unfreeze_every)]

    def describe(self, task: nn.Module) -> str:
        """In a few words, of a task that it was applied to; "" where it does nothing."""
        said = []
        if self.freeze:
            frozen = sum(each.numel() for each in task.parameters() if not each.requires_grad)
            said.append(f"{frozen:,} of {sum(each.numel() for each in task.parameters()):,} parameters frozen")
        if self.layer_decay != 1:
            lowest = self.layer_decay ** max(depths(task).values())
            said.append(f"rates fall by {self.layer_decay:g} a layer, to {lowest:.2g} of the head's at the embedding")
        if self.unfreeze_every is not None:
            every = self.unfreeze_every
            when = f"every {every:g} epochs" if every >= 1 else f"over the first {every:.0%} of the budget"
            when = "each epoch" if every == 1 else when
            said.append(f"one more of {len(learning_layers(task))} layers learns {when}")
        return "; ".join(said)
