"""Heads: what turns a backbone's hidden states into predictions and a loss.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.losses import IGNORED, cross_entropy, linear_cross_entropy, softcapped
from llmcli.models.base import Backbone

# Up to this many logits (8 MiB in float32) they are made in one piece, which is as fast. Above it the chunked loss is,
# measured on one CPU core with its gradients: 1.4 times as fast at 2**23 logits, 1.8 at 2**25, in less memory.
PLAIN_LOGITS = 2**21
CHUNK = 512  # rows of logits at a time; 256 is as fast, 128 and 1,024 are mostly slower


class LanguageModelHead(nn.Module):
    """hidden (B, T, D) -> logits over the vocabulary, and the loss that trains them.

    `embedding`: shares its weight with the head (Press & Wolf 2017), None for a weight of its own. `softcap`:
    see `losses.softcapped`. `label_smoothing` (Szegedy et al. 2016) applies in train mode only, so that
    validation figures are nats per token.
    """

    def __init__(
        self,
        *,
        d_model: int,
        vocab_size: int,
        embedding: nn.Embedding | None,
        bias: bool,
        softcap: float | None,
        label_smoothing: float,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing ({label_smoothing}) must be at least 0 and below 1")
        if softcap is not None and softcap <= 0:
            raise InputError(f"softcap ({softcap}) must be above 0", hint="null turns it off")
        if embedding is None:
            weight = nn.Parameter(torch.empty(vocab_size, d_model))
            nn.init.normal_(weight, std=0.02)
        elif embedding.weight.shape == (vocab_size, d_model):
            weight = cast("nn.Parameter", embedding.weight)
        else:
            raise InputError(
                f"the head ({vocab_size}, {d_model}) cannot share the embedding's weight "
                f"{tuple(embedding.weight.shape)}",
                hint="give the embedding the model's width, or set tie_embeddings=false",
            )
        self.weight = weight
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None
        self.softcap = softcap
        self.label_smoothing = label_smoothing

    @classmethod
    def for_backbone(cls, backbone: Backbone, *, label_smoothing: float) -> Self:
        """The head that the backbone's attributes ask for; `backbone.init_head` fills an untied weight."""
        head = cls(
            d_model=backbone.d_model,
            vocab_size=backbone.vocab_size,
            embedding=backbone.input_embedding if backbone.tie_embeddings else None,
            bias=backbone.head_bias,
            softcap=backbone.logit_softcap,
            label_smoothing=label_smoothing,
        )
        if not backbone.tie_embeddings:
            backbone.init_head(head.weight)
        return head

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> logits (B, T, V) in float32 or wider, whatever autocast does."""
        logits = F.linear(hidden, self.weight, self.bias)
        return softcapped(logits.to(torch.promote_types(logits.dtype, torch.float32)), self.softcap)

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """`loss`, so that compiling or wrapping the module covers what training runs."""
        return self.loss(hidden, labels)

    def loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """hidden (B, T, D), labels (B, T) -> cross-entropy in nats, summed over labels other than -100."""
        hidden, labels = hidden.flatten(0, -2), labels.flatten()
        smoothing = self.label_smoothing if self.training else 0.0
        if len(labels) * len(self.weight) <= PLAIN_LOGITS:
            return cross_entropy(self.logits(hidden), labels, label_smoothing=smoothing)
        return linear_cross_entropy(
            hidden,
            self.weight,
            self.bias,
            labels,
            softcap=self.softcap,
            label_smoothing=smoothing,
            chunk=CHUNK,
        )

    @torch.no_grad()
    def loss_and_correct(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """For evaluation: (the unsmoothed sum of `loss`, how many labels the highest logit names)."""
        hidden, labels = hidden.flatten(0, -2), labels.flatten()
        loss = torch.zeros((), device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        for start in range(0, len(labels), CHUNK):
            target = labels[start : start + CHUNK]
            logits = self.logits(hidden[start : start + CHUNK])
            loss += cross_entropy(logits, target, label_smoothing=0.0)
            correct += ((logits.argmax(dim=-1) == target) & (target != IGNORED)).sum()
        return loss, correct
