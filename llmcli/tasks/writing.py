"""Texts from codes, as a decoding strategy sees it.

Shapes: B codes, T tokens, Z code width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcli.decoding.base import StepOutput
from llmcli.heads import LanguageModelHead
from llmcli.models.autoencoder import Autoencoder
from llmcli.models.base import State


class Written:
    """A `decoding.GeneratingModel` whose rows write the texts of codes (B, Z). starts: the prompts to continue."""

    max_seq_len: int | None = None

    def __init__(self, model: Autoencoder, head: LanguageModelHead, codes: Tensor, *, bos_id: int) -> None:
        self._model, self._head, self._codes = model, head, codes
        self.vocab_size, self.device = model.vocab_size, codes.device
        self.starts = [[bos_id] for _ in range(len(codes))]

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Raises ValueError for another number of rows than there are codes."""
        if batch_size != len(self._codes):
            raise ValueError(f"there are {len(self._codes)} codes, not {batch_size}")
        return self._model.init_state(self._codes, capacity)

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None, *, last_only: bool = False) -> StepOutput:
        """ids (B, T) -> logits (B, T, V), or (B, 1, V) at each row's last real token."""
        hidden, state = self._model.step(ids, state, lengths)
        if last_only:
            last = torch.full((ids.size(0),), ids.size(1) - 1, device=ids.device) if lengths is None else lengths - 1
            hidden = hidden[torch.arange(ids.size(0), device=ids.device), last].unsqueeze(1)  # (B, 1, D)
        return StepOutput(logits=self._head.logits(hidden), hidden=hidden, attention=None, state=state)
