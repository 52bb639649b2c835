"""One text to another: translation, summaries, answers. Any encoder-decoder, decoded by any strategy.

Shapes: B rows, S source tokens, T target tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.example_batches import Sizes
from llmcli.data.records import Record
from llmcli.decoding.base import StepOutput
from llmcli.errors import InputError
from llmcli.heads import LanguageModelHead
from llmcli.losses import IGNORED
from llmcli.metrics.base import Metric
from llmcli.metrics.text import Accuracy, Loss, Perplexity
from llmcli.models.base import State
from llmcli.models.encoder_decoder import EncoderDecoder, Memory
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tokenizers.base import Tokenizer

Lengths = NDArray[np.int64]


class SequenceToSequence(Task):
    """Learns P(target token | source, target tokens before it) from `TextPair` records, by teacher forcing.

    label_smoothing: share of the target that is spread over the vocabulary (Szegedy et al. 2016), in training alone.
    bos_id: what stands before the first target token; eos_id: after the last one, and after the source.

    Raises InputError for a tokenizer that lacks one of the two ids.
    """

    takes = ("TextPair",)
    kinds = ("encoder_decoder",)
    learns_from = "examples"

    def __init__(
        self,
        *,
        model: EncoderDecoder,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        bos_id: int | None,
        eos_id: int | None,
        label_smoothing: float,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        if not causal:
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
        self.model = model
        self.head = LanguageModelHead(
            d_model=model.d_model,
            vocab_size=model.vocab_size,
            embedding=model.target_embedding if model.tie_embeddings else None,
            bias=False,
            softcap=None,
            label_smoothing=label_smoothing,
        )
        if not model.tie_embeddings:
            model.init_head(self.head.weight)
        self.bos_id, self.eos_id = bos_id, eos_id
        self.max_seq_len = model.max_seq_len

    @property
    def width(self) -> int:
        return self.model.d_model

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return Encoder(pad_id=tokenizer.pad_id or 0, bos_id=self.bos_id, eos_id=self.eos_id)

    # -- loss --------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        hidden = self.model(batch["ids"], batch.get("mask"), batch["target"])  # (B, T, D)
        n = batch["n_tokens"]
        tokens = batch["n_ids"] + n
        if stage == "train":
            return StepResult(loss=self.head(hidden, batch["labels"]), n=n, tokens=tokens)
        loss, correct = self.head.of_each_label(hidden, batch["labels"])  # (B, T)
        each = {"loss": loss.sum(1), "n": (batch["labels"] != IGNORED).sum(1), "correct": correct.sum(1)}
        return StepResult.of_examples(each, n=n, tokens=tokens)

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Perplexity(), Accuracy()

    # -- generation --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def bind(self, sources: Sequence[Sequence[int]]) -> BoundSources:
        """Read the ids of some sources: what a decoding strategy continues from `starts` into their targets.

        Raises InputError for a source that is empty or longer than the model.
        """
        for row, source in enumerate(sources):
            if not source:
                raise InputError(f"source {row} is empty")
            if self.max_seq_len is not None and len(source) >= self.max_seq_len:
                raise InputError(
                    f"source {row} has {len(source):,} tokens; the model reads {self.max_seq_len - 1:,}",
                    "shorten it, or train with a larger batch.seq_len",
                )
        lengths = torch.tensor([len(source) + 1 for source in sources])
        ids = torch.full((len(sources), int(lengths.max())), self.eos_id)
        for row, source in enumerate(sources):
            ids[row, : len(source)] = torch.tensor(source)
        mask = torch.arange(ids.size(1)) < lengths[:, None]  # (B, S)
        padded = bool((lengths < ids.size(1)).any())
        memory = self.model.encode(ids.to(self.device), mask.to(self.device) if padded else None)
        return BoundSources(self, memory)


class BoundSources:
    """A `decoding.GeneratingModel` whose rows write the targets of sources that have been read.

    starts: the prompts to continue, one for each source. Targets end at the longest that the model can read.
    """

    def __init__(self, task: SequenceToSequence, memory: Memory) -> None:
        self._task, self._memory = task, memory
        self.vocab_size, self.max_seq_len, self.device = task.model.vocab_size, task.max_seq_len, task.device
        self.starts = [[task.bos_id] for _ in range(len(memory.hidden))]

    def init_state(self, batch_size: int, capacity: int) -> State:
        assert batch_size == len(self._memory.hidden), "a row for each source"
        return self._task.model.init_state(self._memory, capacity)

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None, *, last_only: bool = False) -> StepOutput:
        """ids (B, T) -> logits (B, T, V), or (B, 1, V) at each row's last real token."""
        hidden, state = self._task.model.step(ids, state, lengths)
        if last_only:
            last = torch.full((ids.size(0),), ids.size(1) - 1, device=ids.device) if lengths is None else lengths - 1
            hidden = hidden[torch.arange(ids.size(0), device=ids.device), last].unsqueeze(1)  # (B, 1, D)
        return StepOutput(logits=self._task.head.logits(hidden), hidden=hidden, attention=None, state=state)


class Encoder:
    """A pair as `ids` (S,): the source and an end; `target` (T,): a beginning and the target; `labels` (T,): the
    target and an end. Each side has a limit of its own; a target that is cut does not seem to end there."""

    fate = "cut"
    extra = 1

    def __init__(self, *, pad_id: int, bos_id: int, eos_id: int) -> None:
        self.bos_id, self.eos_id = bos_id, eos_id
        self.pad: Mapping[str, int] = {"ids": pad_id, "target": pad_id, "labels": IGNORED}

    def rows(self, record: Record, ids: list[NDArray[Any]], limit: int) -> list[dict[str, Any]]:
        source, target = ids
        labels = np.append(target, self.eos_id)[:limit]
        return [
            {
                "ids": np.append(source[: limit - 1], self.eos_id),
                "target": np.insert(labels[:-1], 0, self.bos_id),
                "labels": labels,
                "n_tokens": len(labels),
            }
        ]

    def sizes(self, lengths: Lengths, first: Lengths, limit: int | None) -> Sizes:
        """Of a row's two sides, each padded on its own, the longer one counts."""
        sides = np.stack((lengths[first], lengths[first + 1])) + 1  # (2, E)
        if limit is not None:
            sides = np.minimum(sides, limit)
        return Sizes(rows=np.ones_like(first), longest=sides.max(0), ids=sides.sum(0))
