"""Word2vec with negative sampling (Mikolov et al. 2013a, b): skip-gram and CBOW.

With the input vector v and the output vector u of a word, sigma the logistic function and k negative words n drawn for
each pair, skip-gram's loss for the centre c and a word o near it is

    - log sigma(v_c . u_o) - sum_k log sigma(-v_c . u_n)

and CBOW's is the same with the mean of the v around c in the place of v_c, and c itself in that of o. The input vectors
are the result.

Words come in blocks (`llmcli.data.pairs`): one matrix product gives the scores of all pairs of a block, and its
gradient is taken in the same breath, since nearly all of its parts are there already.

Shapes: G blocks, C centres of a block, S words around them, N negative words of a block, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.models.base import WordVectorModel, check_sizes

Objective = Literal["skip_gram", "cbow"]


class Word2Vec(WordVectorModel):
    """Two vectors for each word, learned from the words near it; learns from `data.pairs.WordBlocks`."""

    learns_from: ClassVar[str] = "pairs"
    loss_unit: ClassVar[str] = "nats/pair"

    def __init__(self, *, vocab_size: int, d_model: int, objective: Objective, sparse: bool) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, d_model=d_model)
        if objective not in ("skip_gram", "cbow"):
            raise InputError(f"objective must be skip_gram or cbow, not {objective!r}")
        self.vocab_size, self.d_model, self.objective, self.sparse = vocab_size, d_model, objective, sparse
        self.input_embedding = nn.Embedding(vocab_size, d_model, sparse=sparse)
        self.output_embedding = nn.Embedding(vocab_size, d_model, sparse=sparse)
        self.init_weights()

    def init_weights(self) -> None:
        """As in word2vec.c: input vectors small and uniform, output vectors zero."""
        nn.init.uniform_(self.input_embedding.weight, -0.5 / self.d_model, 0.5 / self.d_model)
        nn.init.zeros_(self.output_embedding.weight)

    def input_vectors(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., D)."""
        return cast(Tensor, self.input_embedding(ids))

    def word_vectors(self) -> Tensor:
        return self.input_embedding.weight

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """The targets are pairs for skip-gram, words with their context for CBOW."""
        near, words, weight = batch["near"], batch["words"], float(batch["negative_weight"])
        outputs = self.output_embedding(words)  # (G, S + N, D)
        if self.objective == "skip_gram":
            centres = self.input_vectors(batch["centres"])  # (G, C, D)
            loss = cast(Any, _SkipGram).apply(centres, outputs, near, weight)
            return cast(Tensor, loss), int(batch["pairs"])
        size = near.size(2)
        edge = (size - near.size(1)) // 2
        share = near.to(outputs.dtype)
        share = share / share.sum(-1, keepdim=True).clamp(min=1)  # (G, C, S)
        context = torch.bmm(share, self.input_vectors(words[:, :size]))  # (G, C, D)
        found = (context * outputs[:, edge : size - edge]).sum(-1)  # (G, C)
        noise = torch.bmm(context, outputs[:, size:].transpose(1, 2))  # (G, C, N)
        loss = F.logsigmoid(found) + weight * F.logsigmoid(-noise).sum(-1)  # (G, C)
        return -(loss * near.any(-1)).sum(), int(batch["predicted"])


class _SkipGram(torch.autograd.Function):
    """The summed loss of all pairs of all blocks, its gradient computed with it: one product more than the forward."""

    @staticmethod
    def forward(ctx: Any, centres: Tensor, outputs: Tensor, near: Tensor, weight: float) -> Tensor:
        """centres (G, C, D), outputs (G, S + N, D) with the negatives last, near (G, C, S) bool -> scalar."""
        size = near.size(2)
        scores = torch.bmm(centres, outputs.transpose(1, 2))  # (G, C, S + N)
        times = torch.empty_like(scores)  # how often each score counts
        pairs = times[:, :, :size].copy_(near)
        times[:, :, size:] = weight * pairs.sum(-1, keepdim=True)
        # softplus(score) for a negative, softplus(-score) = softplus(score) - score for a pair
        loss = -torch.dot(F.logsigmoid(-scores).ravel(), times.ravel()) - (scores[:, :, :size] * pairs).sum()
        gradient = scores.sigmoid_().mul_(times)
        gradient[:, :, :size].sub_(pairs)
        ctx.save_for_backward(torch.bmm(gradient, outputs), torch.bmm(gradient.transpose(1, 2), centres))
        return loss

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor, None, None]:
        for_centres, for_outputs = ctx.saved_tensors
        return for_centres * above, for_outputs * above, None, None
