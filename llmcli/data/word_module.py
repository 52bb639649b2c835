"""What word vectors are trained on, as Lightning's batches: blocks of words near each other, or counted pairs."""

from __future__ import annotations

from typing import ClassVar

from llmcli.data.cooccurrence import CellBatches, cells_of
from llmcli.data.loader import EpochLoader, PlanLoader
from llmcli.data.module import PreparedData, WindowData
from llmcli.data.pairs import WordBlocks, word_counts
from llmcli.data.prepare import Prepared
from llmcli.data.windows import Plan
from llmcli.errors import InputError
from llmcli.tokenizers.base import RESERVED


class WordWindowData(WindowData):
    """Windows of `seq_len` tokens, `size` a batch, in which words learn from those at most `window` words away.

    subsample: frequent words are dropped at random, those beyond this share of the text; 0 keeps all. negatives: words
    drawn for each pair, in proportion to their counts to the power `ns_exponent`; `shared` of them stand for those of
    all pairs of a block. Each split is drawn with its own text, validation with the training text's counts.
    """

    gives: ClassVar[str] = "pairs"

    def __init__(
        self,
        *,
        prepared: Prepared,
        seed: int,
        contiguous: bool,
        accumulate: int = 1,
        size: int,
        seq_len: int,
        window: int,
        subsample: float,
        negatives: int,
        shared: int,
        ns_exponent: float,
        eval_size: int | None,
        num_workers: int,
    ) -> None:
        super().__init__(
            prepared=prepared,
            seed=seed,
            contiguous=contiguous,
            accumulate=accumulate,
            size=size,
            seq_len=seq_len,
            eval_size=eval_size,
            num_workers=num_workers,
        )
        for name, value in {"window": window, "negatives": negatives, "shared": shared}.items():
            if value < 1:
                raise InputError(f"batch.{name} ({value}) must be at least 1")
        if subsample < 0:
            raise InputError(f"batch.subsample ({subsample}) must be at least 0")
        self.window, self.subsample = window, subsample
        self.negatives, self.shared, self.ns_exponent = negatives, shared, ns_exponent
        self._counts = word_counts(self._train_tokens, prepared.tokenizer.vocab_size, len(RESERVED))
        if not self._counts.any():
            raise InputError("the training text has no known word", "a lower tokenizer.min_frequency, or more text")

    def train_dataloader(self) -> PlanLoader:
        loader = super().train_dataloader()
        return PlanLoader(self._blocks(loader.plan), num_workers=self.num_workers)

    def eval_loader(
        self, split: str, stride: int | None = None, size: int | None = None, *, alone: bool = False
    ) -> EpochLoader:
        """Every word of a split once as a centre, but those that are dropped; the same draws each time.

        Raises InputError for a stride, which windows of words do not have.
        """
        if stride is not None:
            raise InputError(f"stride ({stride}) is for models that read a context; leave it out")
        loader = super().eval_loader(split, None, size, alone=alone)
        return EpochLoader(self._blocks(loader.plan), num_workers=self.num_workers)

    def _blocks(self, windows: Plan) -> WordBlocks:
        return WordBlocks(
            windows,
            counts=self._counts,
            boundary=self.prepared.tokenizer.eos_id,
            window=self.window,
            subsample=self.subsample,
            negatives=self.negatives,
            shared=self.shared,
            ns_exponent=self.ns_exponent,
            seed=self.seed,
        )


class CooccurrenceData(PreparedData):
    """Cells of the matrix that counts how often words stand at most `window` words apart, `size` a batch.

    eval_size: cells of an evaluation batch; None: as many as `size`.
    """

    gives: ClassVar[str] = "cells"
    seq_len: ClassVar[int] = 1

    def __init__(
        self,
        *,
        prepared: Prepared,
        seed: int,
        contiguous: bool,
        accumulate: int = 1,
        size: int,
        window: int,
        eval_size: int | None,
        num_workers: int,
    ) -> None:
        super().__init__()
        for name, value in {"size": size, "window": window, "eval_size": 1 if eval_size is None else eval_size}.items():
            if value < 1:
                raise InputError(f"batch.{name} ({value}) must be at least 1")
        if num_workers < 0:
            raise InputError(f"batch.num_workers ({num_workers}) must be at least 0")
        self.prepared, self.seed, self.accumulate = prepared, seed, accumulate
        self.size, self.window, self.num_workers = size, window, num_workers
        self.eval_size = eval_size or size

    def batches_per_epoch(self, ranks: int) -> int:
        """Training batches of each rank in an epoch. Raises InputError when the text does not fill one step."""
        plan = self._train(rank=0, world=ranks)
        if not len(plan):
            cells = len(plan.cells)
            raise InputError(
                f"the train split has {cells:,} pairs of words near each other, fewer than a step takes: batch.size "
                f"({self.size:,}) times trainer.accumulate ({self.accumulate})",
                f"use more text, or batch.size={max(1, cells // (self.accumulate * ranks))}",
            )
        return len(plan)

    @property
    def tokens_per_batch(self) -> int:
        """Cells in one training batch of one rank."""
        return self.size

    def train_dataloader(self) -> PlanLoader:
        rank, world = self._rank_and_world()
        return PlanLoader(self._train(rank, world), num_workers=self.num_workers)

    def eval_loader(
        self, split: str, stride: int | None = None, size: int | None = None, *, alone: bool = False
    ) -> EpochLoader:
        """Every cell of a split once. Raises InputError for a stride, which cells do not have."""
        if stride is not None:
            raise InputError(f"stride ({stride}) is for models that read a context; leave it out")
        if size is not None and size < 1:
            raise InputError(f"batch_size ({size}) must be at least 1")
        rank, world = (0, 1) if alone else self._rank_and_world()
        rows = self.eval_size if size is None else size
        return EpochLoader(
            self._plan(split, size=rows, seed=None, rank=rank, world=world), num_workers=self.num_workers
        )

    def _train(self, rank: int, world: int) -> CellBatches:
        return self._plan("train", size=self.size, seed=self.seed, group=self.accumulate, rank=rank, world=world)

    def _plan(
        self, split: str, *, size: int, seed: int | None, group: int = 1, rank: int = 0, world: int = 1
    ) -> CellBatches:
        tokenizer = self.prepared.tokenizer
        cells = cells_of(
            self.prepared.split(split),
            self.prepared.path / f"cells-{split}-{self.window}.bin",
            vocab_size=tokenizer.vocab_size,
            reserved=len(RESERVED),
            boundary=tokenizer.eos_id,
            window=self.window,
        )
        tokens = self.prepared.count("tokens", split)
        return CellBatches(cells, size=size, text_tokens=tokens, seed=seed, group=group, rank=rank, world=world)
