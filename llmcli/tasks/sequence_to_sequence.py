"""One text to another: translation, summaries, answers. Any encoder-decoder, or a causal model that reads the source
before the target; decoded by any strategy.

Shapes: B rows, S source tokens, T target tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from llmcli.decoding.base import StepOutput
from llmcli.errors import InputError
from llmcli.heads import LanguageModelHead
from llmcli.losses import IGNORED, r_drop
from llmcli.metrics.base import Metric
from llmcli.metrics.text import Accuracy, Loss, Perplexity
from llmcli.models.base import Backbone, State
from llmcli.models.encoder_decoder import EncoderDecoder, Memory
from llmcli.models.prefix import PrefixReader
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.decoded_validation import DecodedValidation, validation_metrics
from llmcli.tasks.own_tokens import Schedule, ScheduledSampling, drawn
from llmcli.tasks.pairs import PairEncoder, PrefixEncoder
from llmcli.tokenizers.base import Tokenizer


class SequenceToSequence(Task):
    """Learns P(target token | source, target tokens before it) from `TextPair` records, by teacher forcing.

    A causal backbone reads both as one text and learns of it the target alone. `max_seq_len`: of each side.

    label_smoothing: share of the target that is spread over the vocabulary (Szegedy et al. 2016), in training alone.
    bos_id: what stands before the first target token; eos_id: after the last one, and after the source.
    scheduled_sampling, sampling_schedule: as of `ScheduledSampling`; what the model would write is found in a pass of
    its own, before right tokens alone (Mihaylova & Martins 2019). r_drop: the weight of what sets two passes with other
    dropout apart, see `losses.r_drop`; it takes twice the time.

    decode_val: so many validation pairs are decoded at each validation, greedily, and scored; monitor: the figure that
    decides which weights are best.

    Raises InputError for a tokenizer that lacks one of the two ids and for values outside their range.
    """

    takes = ("TextPair",)
    rows_apart = True
    kinds = ("encoder_decoder", "attention", "recurrent", "window")
    needs_causal = True
    learns_from = "examples"

    def __init__(
        self,
        *,
        model: EncoderDecoder | Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        bos_id: int | None,
        eos_id: int | None,
        label_smoothing: float,
        scheduled_sampling: float = 0.0,  # runs of earlier versions have no such keys
        sampling_schedule: Schedule = "linear",
        r_drop: float = 0.0,
        decode_val: int = 0,
        monitor: str = "val_loss",
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        if not (causal and getattr(model, "causal", True)):
            raise InputError(
                "task=sequence_to_sequence writes the target from its beginning and needs task.causal=true"
            )
        if bos_id is None or eos_id is None:
            raise InputError(
                "task=sequence_to_sequence needs a tokenizer with ids for the beginning and the end of a text",
                "every tokenizer that llm trains has them",
            )
        if not 0 <= label_smoothing < 1:
            raise InputError(f"task.label_smoothing ({label_smoothing}) must be at least 0 and below 1")
        if not 0 <= r_drop < math.inf:
            raise InputError(f"task.r_drop ({r_drop}) must be at least 0", "0 switches it off, 5 is usual")
        self.model = model
        self.prefixed = isinstance(model, Backbone)
        self.head = _head(model, label_smoothing)
        self.bos_id, self.eos_id = bos_id, eos_id
        self.sampling = ScheduledSampling(share=scheduled_sampling, schedule=sampling_schedule)
        self.r_drop = r_drop
        if decode_val < 0:
            raise InputError(f"task.decode_val ({decode_val}) must be at least 0")
        self.decode_val, self.monitor = decode_val, monitor
        known = [f"val_{metric.name}" for metric in self.metrics()]
        if monitor not in known:
            raise InputError(
                f"task.monitor ({monitor}) must be one of {', '.join(known)}",
                "" if decode_val else "task.decode_val=100 decodes as many pairs at each validation, and adds val_bleu",
            )
        self._written: DecodedValidation | None = None
        if r_drop and optimizer is not None and not self._draws():
            raise InputError(
                f"task.r_drop ({r_drop}) compares two passes with other dropout, and this model drops nothing out",
                "model.dropout=0.1; or task.r_drop=0",
            )
        longest = model.max_seq_len
        self.max_seq_len = longest // 2 if self.prefixed and longest is not None else longest

    @property
    def width(self) -> int:
        return self.model.d_model

    @property
    def head_kind(self) -> str | None:  # type: ignore[override]
        """That of a language model, whose head it can begin with, where it is one that reads the source first."""
        return "next token" if self.prefixed else None

    @property
    def reader(self) -> EncoderDecoder | PrefixReader:
        """The model as one that reads sources."""
        return PrefixReader(self.model) if isinstance(self.model, Backbone) else self.model

    def encoder(self, tokenizer: Tokenizer) -> PairEncoder:
        """Raises InputError for sources with a vocabulary of their own that the model has no table for."""
        own = tokenizer.of_sources is not tokenizer
        size = tokenizer.of_sources.vocab_size
        if own and (self.prefixed or self.model.input_embedding.num_embeddings != size):
            raise InputError(
                f"{type(self.model).__name__} has no table for the {size:,} ids that sources have of their own",
                "a model with source_vocab_size, as model=seq2seq_transformer; or prepare.separate=false",
            )
        kind = PrefixEncoder if self.prefixed else PairEncoder
        return kind(pad_id=tokenizer.pad_id or 0, bos_id=self.bos_id, eos_id=self.eos_id)

    # -- loss --------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        given = cast("Tensor", batch["ids" if self.prefixed else "target"])  # (B, T), right tokens
        labels = cast("Tensor", batch["labels"])  # (B, T)
        n = batch["n_tokens"]
        tokens = batch["n_ids"] + (0 if self.prefixed else n)
        if stage == "train":
            return StepResult(loss=self._training_loss(batch, given, labels), n=n, tokens=tokens)
        loss, correct = self.head.of_each_label(self._hidden(batch, given), labels)  # (B, T)
        each = {"loss": loss.sum(1), "n": (labels != IGNORED).sum(1), "correct": correct.sum(1)}
        return StepResult.of_examples(each, n=n, tokens=tokens)

    def _training_loss(self, batch: Batch, given: Tensor, labels: Tensor) -> Tensor:
        rate = self.sampling.rate(self.progress(self.global_step))
        if rate > 0:
            given = self._with_own(batch, given, labels, rate)
        real = labels != IGNORED  # (B, T)
        hidden = self._hidden(batch, given)
        if self.r_drop:
            again = self._hidden(batch, given)  # with other dropout
            loss = self._r_drop(hidden[real], again[real], labels[real])
        elif self.prefixed:  # of the source no logits are made
            loss = self.head(hidden[real], labels[real])
        else:
            loss = self.head(hidden, labels)
        return loss

    def _r_drop(self, one: Tensor, other: Tensor, labels: Tensor) -> Tensor:
        """one, other (N, D): of two passes. Of many logits no more than `head.chunk` rows are there at a time: they are
        made again on the way back."""

        def loss(one: Tensor, other: Tensor, labels: Tensor) -> Tensor:
            logits = self.head.logits(one), self.head.logits(other)  # (n, V) each
            return r_drop(*logits, labels, weight=self.r_drop, label_smoothing=self.head.label_smoothing)

        size = self.head.rows_at_once(len(labels))
        if size >= len(labels):
            return loss(one, other, labels)
        parts = zip(*(torch.split(each, size) for each in (one, other, labels)), strict=True)
        again = partial(checkpoint, loss, use_reentrant=False, preserve_rng_state=False)  # nothing in it is random
        return torch.stack([again(*part) for part in parts]).sum()

    def _draws(self) -> bool:
        """Whether the model draws at random while it learns."""
        ids = torch.full((1, 2), self.eos_id)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            before = torch.get_rng_state()
            self._hidden({"ids": ids}, ids)
            return not torch.equal(before, torch.get_rng_state())

    def _hidden(self, batch: Batch, given: Tensor) -> Tensor:
        """(B, T) -> (B, T, D). What is padding stands on the right, where no real token looks."""
        if self.prefixed:
            return cast("Tensor", self.model(given))
        return cast("Tensor", self.model(batch["ids"], batch.get("mask"), given))

    @torch.no_grad()
    def _with_own(self, batch: Batch, given: Tensor, labels: Tensor, rate: float) -> Tensor:
        """given (B, T) with some of the model's most probable tokens in place of the right ones."""
        own = drawn(given, labels, rate)  # (B, T - 1)
        hidden = self._hidden(batch, given)[:, :-1][own]  # (N, D)
        parts = torch.split(hidden, self.head.rows_at_once(len(hidden)))
        predicted = torch.cat([self.head.logits(part).argmax(-1) for part in parts])
        torch.clear_autocast_cache()  # weights that were cast without gradients would be used again with them
        mixed = given.clone()
        mixed[:, 1:][own] = predicted
        return mixed

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Perplexity(), Accuracy(), *(validation_metrics() if self.decode_val else ())

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.decode_val:
            limit = None if self.max_seq_len is None else self.max_seq_len - 1
            self._written = DecodedValidation.of(
                self.trainer.datamodule.prepared,  # type: ignore[attr-defined]
                self.decode_val,
                limit=limit,
                rank=self.trainer.global_rank,
                world=self.trainer.world_size,
            )

    def on_validation_epoch_start(self) -> None:
        """Here, and not at the end, the weights are those that are validated, also where they are an average."""
        super().on_validation_epoch_start()
        if self._written is not None:
            sums = self._written.sums(self)
            for metric in self._val:
                metric.update(sums)

    # -- generation --------------------------------------------------------------------------------------------

    def check_sources(self, sources: Sequence[Sequence[int]]) -> None:
        """Raises InputError for the first source that is empty or longer than the model, by its number from 1."""
        for number, source in enumerate(sources, start=1):
            if not source:
                raise InputError(f"source {number} is empty")
            if self.max_seq_len is not None and len(source) >= self.max_seq_len:
                raise InputError(
                    f"source {number} has {len(source):,} tokens; the model reads {self.max_seq_len - 1:,}",
                    "shorten it, or train with a larger batch.seq_len",
                )

    @torch.inference_mode()
    def bind(self, sources: Sequence[Sequence[int]], *, attention: bool = False) -> BoundSources:
        """Read the ids of some sources: what a decoding strategy continues from `starts` into their targets.

        attention: each step says what it looks at. Raises InputError as `check_sources`.
        """
        self.check_sources(sources)
        lengths = torch.tensor([len(source) + 1 for source in sources])
        ids = torch.full((len(sources), int(lengths.max())), self.eos_id)
        for row, source in enumerate(sources):
            ids[row, : len(source)] = torch.tensor(source)
        mask = torch.arange(ids.size(1)) < lengths[:, None]  # (B, S)
        padded = bool((lengths < ids.size(1)).any())
        memory = self.reader.encode(ids.to(self.device), mask.to(self.device) if padded else None)
        return BoundSources(self, memory, attention=attention)


class BoundSources:
    """A `decoding.GeneratingModel` whose rows write the targets of sources that have been read.

    starts: the prompts to continue, one for each source. Targets end at the longest that the model can read. attention:
    a step gives `StepOutput.attention`.
    """

    def __init__(self, task: SequenceToSequence, memory: Memory, *, attention: bool) -> None:
        self._task, self._memory, self._attention = task, memory, attention
        self.vocab_size, self.max_seq_len, self.device = task.model.vocab_size, task.max_seq_len, task.device
        self.starts = [[task.bos_id] for _ in range(len(memory.hidden))]

    def init_state(self, batch_size: int, capacity: int) -> State:
        assert batch_size == len(self._memory.hidden), "a row for each source"
        return self._task.reader.init_state(self._memory, capacity)

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None, *, last_only: bool = False) -> StepOutput:
        """ids (B, T) -> logits (B, T, V), or (B, 1, V) at each row's last real token."""
        weights: list[Tensor] | None = [] if self._attention else None
        hidden, state = self._task.reader.step(ids, state, lengths, weights=weights)
        attention = torch.cat(weights, 1) if weights else None  # (B, H of all layers, T, S)
        if last_only and ids.size(1) > 1:
            rows = torch.arange(ids.size(0), device=ids.device)
            last = torch.full_like(rows, ids.size(1) - 1) if lengths is None else lengths - 1
            hidden = hidden[rows, last].unsqueeze(1)  # (B, 1, D)
            attention = None if attention is None else attention[rows, :, last].unsqueeze(2)
        return StepOutput(self._task.head.logits(hidden), hidden, attention, state)


def _head(model: EncoderDecoder | Backbone, label_smoothing: float) -> LanguageModelHead:
    if isinstance(model, Backbone):
        return LanguageModelHead.for_backbone(model, label_smoothing=label_smoothing)
    head = LanguageModelHead(
        d_model=model.d_model,
        vocab_size=model.vocab_size,
        embedding=model.target_embedding if model.tie_embeddings else None,
        bias=False,
        softcap=None,
        label_smoothing=label_smoothing,
    )
    if not model.tie_embeddings:
        model.init_head(head.weight)
    return head
