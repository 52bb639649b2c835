"""A text from its code: autoencoders that denoise or not, and variational ones, whose codes can be drawn.

Shapes: B texts, S = T tokens with the end, Z code width, K codes drawn for each text, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.example_batches import Sizes
from llmcli.data.records import Record
from llmcli.errors import InputError
from llmcli.heads import LanguageModelHead
from llmcli.layers.noise import corrupted, hidden_words
from llmcli.losses import IGNORED
from llmcli.metrics.base import Metric
from llmcli.metrics.codes import (
    ELBO,
    KL,
    ActiveUnits,
    ImportanceWeightedNLL,
    ImportanceWeightedPerplexity,
    KLPerToken,
    ReconstructionNLL,
    ReconstructionPerToken,
)
from llmcli.metrics.text import Accuracy, Loss
from llmcli.models.autoencoder import Autoencoder, Posterior
from llmcli.models.base import check_rates
from llmcli.tasks.annealing import Annealing
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.writing import Written
from llmcli.tokenizers.base import Tokenizer

Lengths = NDArray[np.int64]
AT_ONCE = 1024  # rows that are scored together: texts times codes


class Reconstruction(Task):
    """Learns to write each text again: minimises -log p(text | code), of a VAE also KL(posterior || N(0, I)).

    drop, shuffle: noise on what the encoder reads (Vincent et al. 2008), the text to write being whole: see
    `layers.noise`. word_dropout: share of its own past that the decoder does not see (Bowman et al. 2016). kl: the
    weight of the KL term as training goes on. free_bits: nats of each dimension, on the mean over a batch, below which
    the KL term does not press (Kingma et al. 2016). All five act in training alone. samples: codes that are drawn for
    each text to score it; with more than one there is an importance-weighted bound of log p(text) (Burda et al. 2016).

    Raises InputError for rates out of range and for a tokenizer that lacks an id.
    """

    takes = ("LabeledText", "Text")
    kinds = ("autoencoder",)
    learns_from = "examples"

    def __init__(
        self,
        *,
        model: Autoencoder,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        bos_id: int | None,
        eos_id: int | None,
        mask_id: int | None,
        drop: float,
        shuffle: int,
        word_dropout: float,
        free_bits: float,
        kl: Annealing,
        head_cutoffs: list[int] | None,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        if not causal:
            raise InputError("task=reconstruction writes a text from its beginning and needs task.causal=true")
        if bos_id is None or eos_id is None or (word_dropout and mask_id is None):
            raise InputError(
                "task=reconstruction needs a tokenizer with ids for the beginning and the end of a text, and for what "
                "word_dropout hides",
                "every tokenizer that llm trains has them",
            )
        check_rates(**{"task.drop": drop, "task.word_dropout": word_dropout})
        for name, value in (("shuffle", shuffle), ("free_bits", free_bits)):
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(f"task.{name} ({value}) must be at least 0")
        self.model = model
        self.head = LanguageModelHead.for_backbone(model.decoder, label_smoothing=0.0, cutoffs=head_cutoffs)
        self.bos_id, self.eos_id, self.mask_id = bos_id, eos_id, mask_id
        self.drop, self.shuffle, self.word_dropout = drop, shuffle, word_dropout
        self.free_bits, self.kl = free_bits, kl
        self.d_code, self.samples = model.d_code, 1

    @property
    def width(self) -> int:
        return self.model.d_model

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return Encoder(pad_id=tokenizer.pad_id or 0, bos_id=self.bos_id, eos_id=self.eos_id)

    # -- loss --------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        return self._learn(batch) if stage == "train" else self._score(batch)

    def _learn(self, batch: Batch) -> StepResult:
        source, mask, target = batch["ids"], batch.get("mask"), batch["target"]
        if self.drop or self.shuffle:
            source, mask = corrupted(source, mask, drop=self.drop, shuffle=self.shuffle)
        if self.word_dropout and self.mask_id is not None:
            target = hidden_words(target, rate=self.word_dropout, mask_id=self.mask_id)
        posterior = self.model.encode(source, mask)
        code = posterior.code(torch.randn_like(posterior.mean))
        loss = self.head(self.model.decode(target, code), batch["labels"])
        if posterior.log_variance is not None:
            loss = loss + self.kl(self.progress(self.global_step)) * self._kl(posterior)
        return StepResult(loss=loss, n=batch["n_tokens"])

    def _kl(self, posterior: Posterior) -> Tensor:
        """What the codes of a batch cost, summed over it."""
        each = posterior.kl()  # (B, Z)
        return len(each) * each.mean(0).clamp(min=self.free_bits).sum()

    def _score(self, batch: Batch) -> StepResult:
        posterior = self.model.encode(batch["ids"], batch.get("mask"))
        rows, labels = len(batch["ids"]), batch["labels"]
        noise = self._noise(batch["numbers"], posterior)  # (K, B, Z)
        nll, right = [], []
        for some in torch.split(noise, max(1, AT_ONCE // rows)):
            code = posterior.code(some).flatten(0, 1)  # (k * B, Z)
            hidden = self.model.decode(batch["target"].repeat(len(some), 1), code)
            losses, correct = self.head.of_each_label(hidden, labels.repeat(len(some), 1))
            nll.append(losses.sum(1).view(len(some), rows))
            right.append(correct.sum(1).view(len(some), rows))
        each_nll = torch.cat(nll)  # (K, B)
        each = {
            "loss": each_nll.mean(0),
            "n": (labels != IGNORED).sum(1),
            "texts": torch.ones_like(each_nll[0]),
            "reconstruction": each_nll.mean(0),
            "correct": torch.cat(right).float().mean(0),
        }
        # a variance is a small difference of large sums: in double precision where the device has it
        means = posterior.mean if posterior.mean.device.type == "mps" else posterior.mean.double()
        sums = {"means": means.sum(0), "mean_squares": (means**2).sum(0)}
        if posterior.log_variance is not None:
            each["kl"] = posterior.kl().sum(1)
            each["loss"] = each["loss"] + each["kl"]
            if len(noise) > 1 or not self.d_code:
                weights = posterior.log_weight(noise) - each_nll  # (K, B): log p(text, code) / posterior(code)
                each["bound"] = math.log(len(noise)) - weights.logsumexp(0)
        return StepResult.of_examples(each, n=batch["n_tokens"], sums=sums if self.d_code else {})

    def _noise(self, numbers: Tensor, posterior: Posterior) -> Tensor:
        """(K, B, Z) of N(0, 1), for each text by its number: the texts beside it change nothing. K is 1 where no code
        is drawn."""
        drawn = posterior.log_variance is not None and self.d_code
        shape = (self.samples if drawn else 1, posterior.mean.size(1))
        each = [torch.randn(shape, generator=torch.Generator().manual_seed(number)) for number in numbers.tolist()]
        return torch.stack(each, 1).to(posterior.mean)

    def metrics(self) -> Sequence[Metric]:
        kinds = (ReconstructionNLL, ReconstructionPerToken, KL, KLPerToken, ELBO)
        bounds = (ImportanceWeightedNLL, ImportanceWeightedPerplexity)
        units = [ActiveUnits(d_code=self.d_code)] if self.d_code else []
        return Loss(), Accuracy(), *(kind() for kind in kinds), *units, *(kind() for kind in bounds)

    # -- generation and prediction -----------------------------------------------------------------------------

    def bind(self, sources: Sequence[Sequence[int]], *, attention: bool = False) -> Written:
        """Read the ids of some texts: what a decoding strategy continues from `starts` writes them again."""
        return self.write(self.codes(sources))

    def check_sources(self, sources: Sequence[Sequence[int]]) -> None:
        """Raises InputError for the first text that is empty, by its number from 1."""
        for number, source in enumerate(sources, start=1):
            if not source:
                raise InputError(f"text {number} is empty", "there is nothing to code: leave it out")

    @torch.inference_mode()
    def codes(self, sources: Sequence[Sequence[int]]) -> Tensor:
        """The ids of texts -> their codes (B, Z), the middle of each posterior. Raises InputError for an empty text."""
        return self._posterior(sources).mean

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """Codes (count, Z) from the prior. Raises InputError for an autoencoder whose codes have none."""
        if not hasattr(self.model, "log_variance") and self.d_code:
            raise InputError(
                "this autoencoder writes texts again: no text comes from nothing, its codes being spread as they are",
                "--prompt TEXT; model=vae learns codes that can be drawn",
            )
        return torch.randn(count, self.d_code, generator=generator).to(self.device)

    def write(self, codes: Tensor) -> Written:
        """What writes the texts of codes (B, Z)."""
        return Written(self.model, self.head, codes, bos_id=self.bos_id)

    @torch.inference_mode()
    def predict(
        self, texts: Sequence[str | Mapping[str, str]], tokenizer: Tokenizer, *, top: int
    ) -> list[dict[str, Any]]:
        """The `code` of each text; of a VAE the middle of its posterior, and the posterior's `log_variance`."""
        asked = [str(text) for text in texts]
        posterior = self._posterior(tokenizer.encode_batch(asked))
        found = [{"text": text, "code": code} for text, code in zip(asked, posterior.mean.tolist(), strict=True)]
        if posterior.log_variance is not None:
            for each, spread in zip(found, posterior.log_variance.tolist(), strict=True):
                each["log_variance"] = spread
        return found

    def _posterior(self, texts: Sequence[Sequence[int]]) -> Posterior:
        self.check_sources(texts)
        lengths = torch.tensor([len(text) + 1 for text in texts])
        ids = torch.full((len(texts), int(lengths.max())), self.eos_id)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        mask = torch.arange(ids.size(1)) < lengths[:, None]  # (B, S)
        padded = bool((lengths < ids.size(1)).any())
        return self.model.encode(ids.to(self.device), mask.to(self.device) if padded else None)


class Encoder:
    """A text as `ids` (T,) and `labels` (T,): its tokens and an end, which is what is read and what is to be written;
    `target` (T,): a beginning and its tokens. What is cut does not seem to end there."""

    fate = "cut"
    extra = 1

    def __init__(self, *, pad_id: int, bos_id: int, eos_id: int) -> None:
        self.bos_id, self.eos_id = bos_id, eos_id
        self.pad: Mapping[str, int] = {"ids": pad_id, "target": pad_id, "labels": IGNORED}

    def rows(self, record: Record, ids: list[NDArray[Any]], limit: int) -> list[dict[str, Any]]:
        text = np.append(ids[0], self.eos_id)[:limit]
        target = np.insert(text[:-1], 0, self.bos_id)
        return [{"ids": text, "target": target, "labels": text, "n_tokens": len(text)}]

    def sizes(self, lengths: Lengths, first: Lengths, limit: int | None) -> Sizes:
        ids = lengths[first] + 1
        if limit is not None:
            ids = np.minimum(ids, limit)
        return Sizes(rows=np.ones_like(ids), longest=ids, ids=ids)
