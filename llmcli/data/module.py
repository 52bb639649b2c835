"""Prepared tokens as Lightning's train, validation and test batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from llmcli.data.loader import EpochLoader, PlanLoader
from llmcli.data.prepare import Prepared
from llmcli.data.windows import Batch, Encoded, EvaluationStreams, EvaluationWindows, Plan, TrainingWindows
from llmcli.errors import InputError

if TYPE_CHECKING:
    import torch


class PreparedData(pl.LightningDataModule, ABC):
    """What every data module has in common: splits that are scored are those of the prepared data, shared by ranks."""

    prepared: Prepared

    @abstractmethod
    def eval_loader(
        self, split: str, stride: int | None = None, size: int | None = None, *, alone: bool = False
    ) -> EpochLoader:
        """All of a split once. size: rows a batch. alone: all of it on this process, where several would share it."""

    def val_dataloader(self) -> Iterable[Batch]:
        return self.eval_loader("val") if "val" in self.prepared.splits else []

    def test_dataloader(self) -> Iterable[Batch]:
        return self.eval_loader("test") if "test" in self.prepared.splits else []

    @property
    def pin(self) -> bool:
        """Whether batches go to a GPU, so that they are made ahead and copied without waiting."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Any:
        """On the CPU a batch is where it should be, and Lightning would make another, tensor by tensor."""
        if device.type == "cpu":
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


class WindowData(PreparedData):
    """Windows of `seq_len` tokens, `size` a batch.

    contiguous: rows continue from batch to batch, as a recurrent model that carries its state needs;
    otherwise windows are shuffled. accumulate: batches of one optimizer step, of which an epoch has a whole number.
    eval_size: rows of an evaluation batch; None is twice `size`, since no gradients are kept. encode: makes of a batch,
    with a seed, what the task learns from; None: the batch itself. across_documents: False says which document each
    token is of, so that the model looks into no other; the first token of a document is still predicted, by the end of
    the one before. Raises InputError for False where another than the model decides what is seen.

    Each split is checked when it is used, so a text that is only scored need not be long enough to train on.
    """

    def __init__(
        self,
        *,
        prepared: Prepared,
        seed: int,
        contiguous: bool,
        accumulate: int = 1,
        encode: Callable[[Batch, int], Batch] | None = None,
        size: int,
        seq_len: int,
        eval_size: int | None,
        num_workers: int,
        across_documents: bool = True,  # runs of earlier versions have no such key
    ) -> None:
        super().__init__()
        if not across_documents and (contiguous or encode is not None):
            raise InputError(
                "batch.across_documents=false goes with task=language_modeling and a model without a state that it "
                "carries from batch to batch",
                "leave it out",
            )
        self.apart = not across_documents
        sizes = {"size": size, "seq_len": seq_len, "eval_size": 1 if eval_size is None else eval_size}
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"batch.{name} ({value}) must be at least 1")
        if num_workers < 0:
            raise InputError(f"batch.num_workers ({num_workers}) must be at least 0")
        self.prepared, self.seed, self.contiguous = prepared, seed, contiguous
        self.size, self.seq_len, self.num_workers = size, seq_len, num_workers
        self.accumulate, self.encode = accumulate, encode
        self.eval_size = eval_size or 2 * size
        self._train_tokens = prepared.split("train")

    def batches_per_epoch(self, ranks: int) -> int:
        """Training batches of each rank in an epoch: as many as fill its optimizer steps.

        Raises InputError when the train split does not fill one step.
        """
        self._check_train(ranks)
        return len(self._plan(rank=0, world=ranks))

    @property
    def tokens_per_batch(self) -> int:
        """Tokens scored in one training batch of one rank."""
        return self.size * self.seq_len

    def train_dataloader(self) -> PlanLoader:
        rank, world = self._rank_and_world()
        self._check_train(world)
        return PlanLoader(self._encoded(self._plan(rank, world)), num_workers=self.num_workers, pin=self.pin)

    def _plan(self, rank: int, world: int) -> TrainingWindows:
        return TrainingWindows(
            self._train_tokens,
            size=self.size,
            seq_len=self.seq_len,
            seed=self.seed,
            contiguous=self.contiguous,
            group=self.accumulate,
            rank=rank,
            world=world,
            apart=self.apart,
        )

    def eval_loader(
        self, split: str, stride: int | None = None, size: int | None = None, *, alone: bool = False
    ) -> EpochLoader:
        """Every token of a split scored once (but the first, which nothing precedes).

        stride: tokens from one window to the next, at most seq_len; fewer give each label more context. None:
        seq_len. With `contiguous` the rows are `size` parallel streams instead, and there is no stride. alone: all of
        the split on this process, where several would share it.
        """
        _check_evaluation(self.prepared, split)
        if size is not None and size < 1:
            raise InputError(f"batch_size ({size}) must be at least 1")
        rank, world = (0, 1) if alone else self._rank_and_world()
        tokens, rows, pad_id = (
            self.prepared.split(split),
            self.eval_size if size is None else size,
            self.prepared.tokenizer.pad_id or 0,
        )
        plan: Callable[..., Plan]
        if self.contiguous:
            if stride is not None:
                raise InputError(
                    f"stride ({stride}) is for shuffled windows; a recurrent model carries its state instead"
                )
            plan = partial(EvaluationStreams, tokens, size=rows, seq_len=self.seq_len, pad_id=pad_id, world=world)
        else:
            step = self.seq_len if stride is None else stride
            if not 1 <= step <= self.seq_len:
                raise InputError(f"stride ({step}) must be from 1 to batch.seq_len ({self.seq_len})")
            plan = partial(
                EvaluationWindows,
                tokens,
                size=rows,
                seq_len=self.seq_len,
                stride=step,
                pad_id=pad_id,
                world=world,
                apart=self.apart,
            )
        if not len(plan(rank=world - 1)):  # no other has less; every process finds out, so none waits for another
            raise InputError(
                f"the {split} split ({len(tokens):,} tokens) has nothing to score for some of the {world:,} processes "
                "that share it",
                "more text, or trainer.devices=1",
            )
        return EpochLoader(self._encoded(plan(rank=rank)), num_workers=self.num_workers, pin=self.pin)

    def _encoded(self, plan: Plan) -> Plan:
        return plan if self.encode is None else Encoded(plan, self.encode, seed=self.seed)

    def _check_train(self, world: int) -> None:
        tokens = len(self._train_tokens)
        windows = (tokens - 1) // self.seq_len
        if windows < 1:
            raise InputError(
                f"the train split has {tokens:,} tokens, fewer than the {self.seq_len + 1:,} of one window "
                f"(batch.seq_len {self.seq_len:,} and the label after it)",
                f"use more text, or less at once: batch.seq_len={max(1, (tokens - 1) // self.size)} "
                f"batch.size={max(1, min(self.size, tokens - 1))}",
            )
        if windows < self.size * world:
            ranks = f" on {world} processes" if world > 1 else ""
            raise InputError(
                f"the train split has {tokens:,} tokens, {windows:,} windows of batch.seq_len "
                f"({self.seq_len:,}), fewer than batch.size ({self.size:,}){ranks}",
                f"use more text, a smaller batch (batch.size={max(1, windows // world)}) "
                f"or a shorter context (batch.seq_len={max(1, (tokens - 1) // (self.size * world))})",
            )
        batches = (tokens - 1) // (self.seq_len * self.size * world)
        if batches < self.accumulate:
            raise InputError(
                f"the train split fills {batches:,} batches, fewer than trainer.accumulate ({self.accumulate:,}) "
                "adds up to one step",
                f"trainer.accumulate={batches}, or a smaller batch.size",
            )


def _check_evaluation(prepared: Prepared, split: str) -> None:
    tokens = len(prepared.split(split))
    if tokens < 2:
        raise InputError(
            f"the {split} split has {tokens} token, too few to score one",
            f"use more text, or a larger data.{split}_fraction",
        )
