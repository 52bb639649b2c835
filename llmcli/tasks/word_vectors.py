"""Word vectors: one vector for each word of a vocabulary, learned from the words around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, SparseAdam

from llmcli.errors import InputError
from llmcli.metrics.base import Metric
from llmcli.metrics.text import Loss
from llmcli.metrics.words import Pair, Question, WordSpace
from llmcli.models.base import WordVectorModel
from llmcli.optim.adagrad import SparseAdagrad
from llmcli.optim.row_sgd import RowSGD
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tokenizers.base import RESERVED, Tokenizer


class WordVectors(Task):
    """Trains word2vec, fastText or GloVe; answers with nearest neighbours, similarity lists and analogies.

    The gradient of a step is the sum over its targets and not their mean, as if each of them had moved its vectors
    alone: so a rate does not depend on the size of the batch.
    """

    takes = ("Text",)
    kinds = ("word_vectors",)

    def __init__(
        self,
        *,
        model: WordVectorModel,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        self.model = model
        self.vocab_size = model.vocab_size

    @property
    def loss_unit(self) -> str:
        return self.model.loss_unit

    # -- training ----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        prepared = self.trainer.datamodule.prepared  # type: ignore[attr-defined]
        words = _words(prepared.tokenizer)
        self.model.begin(words=[""] * len(RESERVED) + words, tokens=prepared.count("tokens", "train"))

    def configure_optimizers(self) -> Any:
        """Raises InputError for an optimizer that cannot use sparse gradients, where the model has such."""
        found = super().configure_optimizers()
        optimizer = found["optimizer"]
        plain = isinstance(optimizer, SGD) and not any(group.get("fused") for group in optimizer.param_groups)
        if self.model.sparse and not (plain or isinstance(optimizer, SparseAdagrad | RowSGD | SparseAdam)):
            raise InputError(
                f"optimizer: {type(optimizer).__name__} cannot use the sparse gradients of word vectors",
                "optimizer=sgd_vectors and adagrad can; model.sparse=false updates every row at every step, slowly",
            )
        return found

    def divisor(self, n: int) -> float:
        """Gradients are sums over the pairs: what Lightning divides by is taken back."""
        return 1 / (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """The gradient is a sum: there is no count to divide by."""

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        loss, targets = self.model.loss(batch)
        return StepResult(loss=loss, n=targets, tokens=batch["n_tokens"])

    def metrics(self) -> Sequence[Metric]:
        return (Loss(),)

    # -- the vectors -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def vectors(self, tokenizer: Tokenizer) -> tuple[list[str], Tensor]:
        """The words of the vocabulary, the most frequent first, and their vectors (W, D)."""
        return _words(tokenizer), self.model.word_vectors().detach()[len(RESERVED) :]

    def space(self, tokenizer: Tokenizer) -> WordSpace:
        words, vectors = self.vectors(tokenizer)
        return WordSpace(words, vectors, outside=self.model.outside)

    def predict(self, texts: Sequence[str], tokenizer: Tokenizer, *, top: int) -> list[dict[str, Any]]:
        """The `top` nearest neighbours of each text: of a word, or of the mean of the words between its spaces."""
        space = self.space(tokenizer)
        return [_neighbours(space, text.strip(), top) for text in texts]

    def score_words(
        self,
        tokenizer: Tokenizer,
        *,
        similarity: Mapping[str, Sequence[Pair]],
        analogies: Mapping[str, Mapping[str, Sequence[Question]]],
    ) -> dict[str, Any]:
        """Figures of lists by their names: Spearman's correlation, accuracy, and how many entries are covered."""
        space = self.space(tokenizer)
        return {
            "similarity": {name: space.similarity(pairs) for name, pairs in similarity.items()},
            "analogies": {name: space.analogies(sections) for name, sections in analogies.items()},
        }


def _words(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token(index) for index in range(len(RESERVED), tokenizer.vocab_size)]


def _neighbours(space: WordSpace, text: str, top: int) -> dict[str, Any]:
    known = {text: vector} if (vector := space.vector(text)) is not None else {}
    if not known:
        found = {word: space.vector(word) for word in text.split()}
        known = {word: vector for word, vector in found.items() if vector is not None}
    if not known:
        return {"text": text, "known": [], "neighbours": []}
    nearest = space.neighbours(torch.stack(list(known.values())).mean(0), top, without=list(known))
    return {
        "text": text,
        "known": list(known),
        "neighbours": [{"word": word, "cosine": round(cosine, 6)} for word, cosine in nearest],
    }
