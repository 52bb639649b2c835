"""What the tasks of a causal model with a next-token head have in common: text, conversations, preferences.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.decoding.base import StepOutput
from llmcli.errors import InputError
from llmcli.heads import LanguageModelHead
from llmcli.models.base import Backbone, State
from llmcli.tasks.base import Task


class NextToken(Task):
    """A causal backbone and the head that predicts the next token: a `decoding.GeneratingModel`.

    A run of any of these tasks can begin with the weights of a run of another, the head among them.
    """

    kinds = ("attention", "recurrent", "window")
    needs_causal = True
    head_kind = "next token"
    option: ClassVar[str]  # its name as task=

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None,
        schedule: Callable[[float, int], float] | None,
        causal: bool,
        label_smoothing: float,
        head_cutoffs: list[int] | None,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        if not (causal and model.causal):
            raise InputError(f"task={self.option} predicts the next token and needs task.causal=true")
        if not 0.0 <= label_smoothing < 1.0:
            raise InputError(f"task.label_smoothing must be in [0, 1), not {label_smoothing}")
        self.model = model
        self.head = LanguageModelHead.for_backbone(model, label_smoothing=label_smoothing, cutoffs=head_cutoffs)
        self.vocab_size = model.vocab_size
        self.max_seq_len = model.max_seq_len

    @property
    def width(self) -> int:
        return self.model.d_model

    # -- generation (decoding.GeneratingModel) -----------------------------------------------------------------

    def init_state(self, batch_size: int, capacity: int) -> State:
        return self.model.init_state(batch_size, capacity)

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None, *, last_only: bool = False) -> StepOutput:
        """ids (B, T) -> logits (B, T, V), or (B, 1, V) at each row's last real token."""
        hidden, state = self.model.step(ids, state, lengths)
        if last_only:
            if lengths is None:
                hidden = hidden[:, -1:]  # (B, 1, D)
            else:
                hidden = hidden[torch.arange(ids.size(0), device=ids.device), lengths - 1].unsqueeze(1)
        return StepOutput(logits=self.head.logits(hidden), hidden=hidden, attention=None, state=state)
