"""Heads: what turns a backbone's hidden states into predictions and a loss.

Shapes: B batch, T time, W words, D model width, V vocabulary, C tags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.layers.crf import CRF, Marginals, Potentials, allowed_in_iob2, log_partition, path_scores, viterbi
from llmcli.layers.pooling import How, Pooling
from llmcli.losses import IGNORED, cross_entropy, linear_cross_entropy, softcapped
from llmcli.models.base import Backbone, check_rates

# Up to this many logits (8 MiB in float32) they are made in one piece, which is as fast. Above it the chunked loss is,
# measured on one CPU core with its gradients: 1.4 times as fast at 2**23 logits, 1.8 at 2**25, in less memory.
PLAIN_LOGITS = 2**21
CHUNK = 512  # rows of logits at a time; 256 is as fast, 128 and 1,024 are mostly slower


class LanguageModelHead(nn.Module):
    """hidden (B, T, D) -> logits over the vocabulary, and the loss that trains them.

    `embedding`: shares its weight with the head (Press & Wolf 2017), None for a weight of its own. `softcap`:
    see `losses.softcapped`. `label_smoothing` (Szegedy et al. 2016) applies in train mode only, so that
    validation figures are nats per token. `chunk`: rows of logits that training makes at a time where they are many;
    None, all at once.
    """

    chunk: int | None = CHUNK

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
        # makes the logits in place of weight and bias: a packed or quantised layer
        self.output: nn.Module | None = None

    @staticmethod
    def for_backbone(
        backbone: Backbone, *, label_smoothing: float, cutoffs: Sequence[int] | None = None
    ) -> LanguageModelHead:
        """The head that the backbone's attributes ask for; `backbone.init_head` fills an untied weight.

        cutoffs: an `AdaptiveHead` with these, None: a full softmax.
        """
        make: Callable[..., LanguageModelHead] = LanguageModelHead
        if cutoffs is not None:
            make = partial(AdaptiveHead, cutoffs=cutoffs)
        head = make(
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
        if self.output is None:
            return _logits(hidden, self.weight, self.bias, self.softcap)
        logits: Tensor = self.output(hidden)
        return softcapped(logits.to(torch.promote_types(logits.dtype, torch.float32)), self.softcap)

    def rows_at_once(self, n: int) -> int:
        """Of how many of n rows training makes the logits at a time, for a loss that needs the logits themselves."""
        few = n * len(self.weight) <= PLAIN_LOGITS
        return max(1, n if self.chunk is None or few else self.chunk)

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """`loss`, so that compiling or wrapping the module covers what training runs."""
        return self.loss(hidden, labels)

    def loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """hidden (B, T, D), labels (B, T) -> cross-entropy in nats, summed over labels other than -100."""
        smoothing = self.label_smoothing if self.training else 0.0
        hidden, labels = hidden.flatten(0, -2), labels.flatten()
        return _loss(hidden, self.weight, self.bias, labels, self.softcap, smoothing, self.chunk)

    def loss_and_correct(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """For evaluation: (the unsmoothed sum of `loss`, how many labels the highest logit names)."""
        loss, correct = self.of_each_label(hidden, labels)
        return loss.sum(), correct.sum()

    @torch.no_grad()
    def of_each_label(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """For evaluation: the unsmoothed loss of each label, and whether the highest logit names it, (B, T) both.

        0 and False where a label is -100.
        """
        shape, hidden, labels = labels.shape, hidden.flatten(0, -2), labels.flatten()
        losses, correct = [], []
        for start in range(0, max(1, len(labels)), CHUNK):  # of no labels one empty chunk
            target = labels[start : start + CHUNK]
            logits = self.logits(hidden[start : start + CHUNK])
            losses.append(F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none"))
            correct.append((logits.argmax(dim=-1) == target) & (target != IGNORED))
        return torch.cat(losses).view(shape), torch.cat(correct).view(shape)


class MaskedHead(nn.Module):
    """hidden (N, D) of hidden tokens -> logits (N, V), and their loss: a layer, GELU and a norm before the output layer
    (Devlin et al. 2019), which shares the weight of the embedding where the backbone ties them, whatever its width.
    """

    def __init__(self, *, backbone: Backbone) -> None:
        super().__init__()
        tied = backbone.tie_embeddings
        width = backbone.input_embedding.embedding_dim if tied else backbone.d_model
        self.transform = nn.Linear(backbone.d_model, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.output = LanguageModelHead(
            d_model=width,
            vocab_size=backbone.vocab_size,
            embedding=backbone.input_embedding if tied else None,
            bias=True,
            softcap=backbone.logit_softcap,
            label_smoothing=0.0,
        )
        nn.init.normal_(self.transform.weight, std=0.02)
        nn.init.zeros_(self.transform.bias)
        if not tied:
            backbone.init_head(self.output.weight)

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """hidden (N, D), targets (N,) -> cross-entropy in nats, summed."""
        return self.output.loss(self._transformed(hidden), targets)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.output.logits(self._transformed(hidden))

    def loss_and_correct(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """For evaluation: the loss, and how many targets the highest logit names."""
        return self.output.loss_and_correct(self._transformed(hidden), targets)

    def _transformed(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norm(F.gelu(self.transform(hidden)))
        return normed


class SequenceHead(nn.Module):
    """hidden (B, T, D), mask (B, T) -> logits (B, C): the sequence pooled to one vector, dropout, one linear layer."""

    def __init__(self, *, d_model: int, outputs: int, pooling: How, dropout: float) -> None:
        super().__init__()
        check_rates(dropout=dropout)
        self.pooling = Pooling(pooling, d_model)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self.pooling.width, outputs)
        nn.init.normal_(self.linear.weight, std=self.pooling.width**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        return cast("Tensor", self.linear(self.dropout(self.pooling(hidden, mask))))


class TokenHead(nn.Module):
    """hidden (B, W, D) -> a tag for each word: dropout, one linear layer, then a CRF or a softmax for each word.

    names (C,): of the tags; where they mark spans in IOB2, only legal sequences are found, with a softmax too. real
    (B, W) bool: words, before all padding. All in float32 or wider, whatever autocast does.
    """

    def __init__(self, *, d_model: int, names: Sequence[str], crf: bool, dropout: float) -> None:
        super().__init__()
        check_rates(dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_model, len(names))
        self.crf = CRF(len(names)) if crf else None
        nn.init.normal_(self.linear.weight, std=d_model**-0.5)
        nn.init.zeros_(self.linear.bias)
        begins, follows = allowed_in_iob2(names)
        self.register_buffer("begins", begins, persistent=False)
        self.register_buffer("follows", follows, persistent=False)

    def scores(self, hidden: Tensor) -> Tensor:
        """hidden (B, W, D) -> what each tag is worth at each word (B, W, C)."""
        scores: Tensor = self.linear(self.dropout(hidden))
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def losses(self, scores: Tensor, labels: Tensor, real: Tensor) -> Tensor:
        """-log p(labels) in nats of each sentence (B,): labels (B, W), any at padding."""
        if self.crf is None:
            labels = labels.masked_fill(~real, IGNORED).flatten()
            each = F.cross_entropy(scores.flatten(0, 1), labels, ignore_index=IGNORED, reduction="none")
            return each.view_as(real).sum(1)
        potentials = self.crf.potentials
        with torch.autocast(scores.device.type, enabled=False):
            return log_partition(scores, real, potentials) - path_scores(scores, labels, real, potentials)

    @torch.no_grad()
    def decode(self, scores: Tensor, real: Tensor) -> Tensor:
        """The most probable legal sequence (B, W), -1 for padding."""
        return viterbi(scores, real, self._legal(scores))

    @torch.no_grad()
    def marginals(self, scores: Tensor, real: Tensor) -> Marginals:
        """Probabilities among all legal sequences."""
        with torch.autocast(scores.device.type, enabled=False):
            return Marginals(scores, real, self._legal(scores))

    def _legal(self, scores: Tensor) -> Potentials:
        n_tags = scores.size(2)
        zero = Potentials(scores.new_zeros(n_tags), scores.new_zeros(n_tags, n_tags), scores.new_zeros(n_tags))
        potentials = zero if self.crf is None else self.crf.potentials
        return potentials.allowing(cast("Tensor", self.begins), cast("Tensor", self.follows))


class AdaptiveHead(LanguageModelHead):
    """Two-level softmax over a vocabulary sorted by frequency (Grave et al. 2017): large vocabularies, much faster.

    P(token) is one softmax for the ids below cutoffs[0], which also holds one entry for each class of rarer ids
    [cutoffs[i], cutoffs[i + 1]); such an id has P(class) P(token | class). Exactly normalised, and a class costs
    only where its tokens are. Every token keeps a vector of the model's width, so that the embedding can be shared.

    Raises InputError for cutoffs that do not rise within the vocabulary, and for label smoothing, which would
    have to spread over the classes that are not computed.
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
        cutoffs: Sequence[int],
    ) -> None:
        super().__init__(
            d_model=d_model,
            vocab_size=vocab_size,
            embedding=embedding,
            bias=bias,
            softcap=softcap,
            label_smoothing=label_smoothing,
        )
        bounds = [0, *cutoffs, vocab_size]
        if not cutoffs or any(low >= high for low, high in pairwise(bounds)):
            raise InputError(f"head_cutoffs ({list(cutoffs)}) must rise within 1 ... {vocab_size - 1}")
        if label_smoothing:
            raise InputError(
                f"label_smoothing ({label_smoothing}) needs the full softmax", hint="set task.head_cutoffs=null"
            )
        self.sizes = [high - low for low, high in pairwise(bounds)]
        self.class_weight = nn.Parameter(torch.empty(len(cutoffs), d_model))
        nn.init.normal_(self.class_weight, std=0.02)
        self.class_bias = nn.Parameter(torch.zeros(len(cutoffs))) if bias else None

    def _levels(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of the first softmax, then of each class."""
        weights = list(self.weight.split_with_sizes(self.sizes))
        biases: list[Tensor | None] = [None] * len(weights)
        weights[0] = torch.cat([weights[0], self.class_weight])
        if self.bias is not None and self.class_bias is not None:
            first, *others = self.bias.split_with_sizes(self.sizes)
            biases = [torch.cat([first, self.class_bias]), *others]
        return list(zip(weights, biases, strict=True))

    def _targets(self, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """labels (N,) -> for the first softmax and for each class: the rows (n,) that it serves, its targets (n,)."""
        first = labels.clone()
        targets = [(torch.arange(len(labels), device=labels.device), first)]
        low = self.sizes[0]
        for index, size in enumerate(self.sizes[1:]):
            rows = ((labels >= low) & (labels < low + size)).nonzero()[:, 0]
            first[rows] = self.sizes[0] + index
            targets.append((rows, labels[rows] - low))
            low += size
        return targets

    def loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        hidden, labels = hidden.flatten(0, -2), labels.flatten()
        loss = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for (weight, bias), (rows, target) in zip(self._levels(), self._targets(labels), strict=True):
            x = hidden if len(rows) == len(hidden) else hidden[rows]
            loss = loss + _loss(x, weight, bias, target, self.softcap, 0.0, self.chunk)
        return loss

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> log-probabilities (B, T, V), which are logits too, in float32 or wider."""
        first, *classes = (self._log_probs(hidden, weight, bias) for weight, bias in self._levels())
        own, of_class = first.split_with_sizes([self.sizes[0], len(classes)], dim=-1)
        return torch.cat([own, *(of_class[..., i, None] + inner for i, inner in enumerate(classes))], dim=-1)

    def _log_probs(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _logits(hidden, weight, bias, self.softcap).log_softmax(-1)

    @torch.no_grad()
    def of_each_label(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        shape, hidden, labels = labels.shape, hidden.flatten(0, -2), labels.flatten()
        levels = self._levels()
        losses, correct = [], []
        for start in range(0, max(1, len(labels)), CHUNK):
            x, target = hidden[start : start + CHUNK], labels[start : start + CHUNK]
            (_, outer), *classes = self._targets(target)
            first = self._log_probs(x, *levels[0])  # (n, cutoffs[0] + classes)
            best, named = first[:, : self.sizes[0]].max(dim=-1)
            loss = -first.gather(1, outer.clamp(min=0)[:, None])[:, 0]
            low = self.sizes[0]
            for index, (size, (own, _)) in enumerate(zip(self.sizes[1:], classes, strict=True)):
                # No token of a class is more probable than the class.
                of_class = first[:, self.sizes[0] + index]
                wanted = of_class > best
                wanted[own] = True
                rows = wanted.nonzero()[:, 0]
                log_probs = self._log_probs(x[rows], *levels[index + 1])  # (rows, size)
                place = (target[rows] - low).clamp(0, size - 1)[:, None]
                inside = torch.zeros_like(loss).index_put((rows,), log_probs.gather(1, place)[:, 0])
                loss[own] -= inside[own]
                inner, argmax = log_probs.max(dim=-1)
                inner = inner + of_class[rows]
                better = inner > best[rows]
                best[rows[better]], named[rows[better]] = inner[better], argmax[better] + low
                low += size
            losses.append(loss.masked_fill(target == IGNORED, 0.0))
            correct.append((named == target) & (target != IGNORED))
        return torch.cat(losses).view(shape), torch.cat(correct).view(shape)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    return softcapped(logits.to(torch.promote_types(logits.dtype, torch.float32)), softcap)


def _loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    softcap: float | None,
    label_smoothing: float,
    chunk: int | None,
) -> Tensor:
    """hidden (N, D), labels (N,) -> summed cross-entropy, in chunks where there are many logits."""
    if chunk is None or len(labels) * len(weight) <= PLAIN_LOGITS:
        logits = _logits(hidden, weight, bias, softcap)
        return cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return linear_cross_entropy(
        hidden, weight, bias, labels, softcap=softcap, label_smoothing=label_smoothing, chunk=chunk
    )
