"""Stored examples as Lightning's train, validation and test batches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llmcli.data.augment import Augmentation, SubwordSampling, Words
from llmcli.data.example_batches import Encode, EncodeRows, ExamplePlan, Sizes, sizes_of
from llmcli.data.examples import Examples
from llmcli.data.loader import EpochLoader, PlanLoader
from llmcli.data.mentions import Mentions
from llmcli.data.module import PreparedData
from llmcli.data.prepare import Prepared
from llmcli.data.records import KINDS
from llmcli.data.samplers import Balanced, EvaluationBatches, Order, Shuffled, TrainingBatches, Weighted
from llmcli.errors import InputError
from llmcli.text.augment.base import Step

TooLong = Literal["truncate", "drop", "error"]
Balance = Literal["none", "over", "under"]


class ExampleData(PreparedData):
    """Examples of any kind, at most `size` rows a batch, as the task encodes them: one row each, or several.

    max_tokens: of a batch together with its padding (None: no limit). seq_len: ids of the longest example; too_long is
    what becomes of others: "truncate", "drop" (from training; elsewhere they are cut) or "error". Where the task reads
    long texts in windows, those are what it cuts them to. pool: batches sorted
    by length together (`TrainingBatches`). balance: every label equally often in an epoch, by showing examples of rare
    ones several times ("over") or leaving out those of frequent ones ("under"). label_weights: how much more often
    examples of a label are shown, 1 for those it does not name. augment: steps that change training examples at random,
    augment_share of them and anew each time; augment_words: what they take for a word (`Augmentation`). eval_size:
    examples of an evaluation batch; None is twice `size`. accumulate: batches of one optimizer step.

    Raises InputError for sizes that cannot be, for examples that are too long under "error", and for a balance of
    examples that do not have one label each.
    """

    gives: ClassVar[str] = "examples"

    def __init__(
        self,
        *,
        prepared: Prepared,
        seed: int,
        contiguous: bool,
        encode: Encode | EncodeRows,
        augment: Mapping[str, Step | SubwordSampling | Mentions] | None = None,
        accumulate: int = 1,
        size: int,
        max_tokens: int | None,
        seq_len: int,
        too_long: TooLong,
        pool: int,
        balance: Balance,
        label_weights: Mapping[str | float, float] | None,
        augment_share: float,
        augment_words: Words,
        eval_size: int | None,
        num_workers: int,
    ) -> None:
        super().__init__()
        sizes = {"size": size, "seq_len": seq_len, "pool": pool, "eval_size": 1 if eval_size is None else eval_size}
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"batch.{name} ({value}) must be at least 1")
        if num_workers < 0:
            raise InputError(f"batch.num_workers ({num_workers}) must be at least 0")
        if max_tokens is not None and max_tokens < seq_len:
            raise InputError(f"batch.max_tokens ({max_tokens}) must hold one example of batch.seq_len ({seq_len}) ids")
        if seq_len <= encode.extra:
            raise InputError(f"batch.seq_len ({seq_len}) must be above the {encode.extra} ids that the task adds")
        for name, given, known in (("too_long", too_long, TooLong), ("balance", balance, Balance)):
            if given not in get_args(known):
                raise InputError(f"batch.{name} ({given}) must be one of {', '.join(get_args(known))}")
        if contiguous:
            raise InputError("batch=examples cannot train a task that carries its state from batch to batch")
        self.prepared, self.seed, self.accumulate = prepared, seed, accumulate
        self.encode = encode
        self.augment: Augmentation | None = None
        if augment:
            self.augment = Augmentation(
                augment,
                tokenizer=prepared.tokenizer,
                record=KINDS[prepared.record],
                words=augment_words,
                share=augment_share,
                seed=seed,
                examples=prepared.examples("train"),
            )
        self.size, self.max_tokens, self.seq_len, self.too_long = size, max_tokens, seq_len, too_long
        self.pool, self.balance = pool, balance
        # an override reads the label 1 as a number
        self.label_weights = {str(label): weight for label, weight in (label_weights or {}).items()}
        self.eval_size, self.num_workers = eval_size or 2 * size, num_workers
        self._order: Order | None = None

    @cached_property
    def _train(self) -> Examples:
        return self._examples("train")  # when it is trained on: data to score need not have it

    def batches_per_epoch(self, ranks: int) -> int:
        """Training batches of each rank in an epoch: as many as fill its optimizer steps.

        Raises InputError when the train split does not fill one step.
        """
        batches = self._training(rank=0, world=ranks)
        if not len(batches):
            single = len(self._training(rank=0, world=1, group=1))
            raise InputError(
                f"the train split fills {single:,} batches of batch.size ({self.size:,}), fewer than a step takes: "
                f"trainer.accumulate ({self.accumulate:,}){f' on {ranks} processes' if ranks > 1 else ''}",
                f"use more data, or batch.size={max(1, self.size * single // (self.accumulate * ranks + 1))}",
            )
        return len(batches)

    @property
    def tokens_per_batch(self) -> int:
        """Tokens of text, without padding, in a training batch of one rank, on average."""
        batches = self._training(rank=0, world=1, group=1)
        tokens = int(self._sizes(self._train).ids[batches.order.numbers(0)].sum())
        return max(1, round(tokens / len(batches)))

    @property
    def remark(self) -> str:
        """How many examples of each split are longer than `seq_len`, and what becomes of them; "" where none is."""
        found = []
        for split in self.prepared.splits:
            lengths = self._whole_lengths(self._examples(split))
            if too_long := int((lengths > self.seq_len).sum()):
                cut = self.encode.fate if isinstance(self.encode, EncodeRows) else "cut"
                fate = "left out" if split == "train" and self.too_long == "drop" else cut
                found.append(f"{too_long:,} of {len(lengths):,} in {split} ({fate})")
        return f"longer than batch.seq_len ({self.seq_len:,}): {', '.join(found)}" if found else ""

    def train_dataloader(self) -> PlanLoader:
        plan = self._plan(self._training(*self._rank_and_world()))
        return PlanLoader(plan, num_workers=self.num_workers, pin=self.pin)

    def first_epoch(self) -> PlanLoader:
        """Every training batch of an epoch on this process alone, for what is fitted to all of it at once."""
        return PlanLoader(self._plan(self._training(rank=0, world=1, group=1)), num_workers=self.num_workers)

    def _plan(self, batches: TrainingBatches) -> ExamplePlan:
        return ExamplePlan(
            self._train,
            batches,
            encode=self.encode,
            seq_len=self.seq_len,
            augment=self.augment,
            max_tokens=self.max_tokens,
            rows=self._sizes(self._train).rows,
        )

    def eval_loader(
        self, split: str, stride: int | None = None, size: int | None = None, *, alone: bool = False
    ) -> EpochLoader:
        """Every example of a split once, as it is.

        Raises InputError for a stride, which examples do not have, and for fewer examples than processes.
        size: examples a batch (None: eval_size). alone: all of the split on this process, where several would share it.
        """
        if stride is not None:
            raise InputError(f"stride ({stride}) is for windows of running text; leave it out")
        if size is not None and size < 1:
            raise InputError(f"batch_size ({size}) must be at least 1")
        examples = self._examples(split)
        rank, world = (0, 1) if alone else self._rank_and_world()
        if len(examples) < world:
            raise InputError(
                f"the {split} split has {len(examples):,} examples, fewer than the {world:,} processes that share it",
                f"more examples, or trainer.devices={max(1, len(examples))}",
            )
        sizes = self._sizes(examples)
        batches = EvaluationBatches(
            sizes.longest,
            sizes.rows,
            size=size or self.eval_size,
            max_tokens=self.max_tokens,
            rank=rank,
            world=world,
        )
        plan = ExamplePlan(examples, batches, encode=self.encode, seq_len=self.seq_len)
        return EpochLoader(plan, num_workers=self.num_workers, pin=self.pin)

    def _examples(self, split: str) -> Examples:
        examples = self.prepared.examples(split)
        if self.too_long == "error" and (lengths := self._whole_lengths(examples)).max() > self.seq_len:
            longest = int(lengths.argmax())
            raise InputError(
                f"example {longest:,} of the {split} split has {lengths[longest]:,} ids, more than batch.seq_len "
                f"({self.seq_len:,})",
                "a larger batch.seq_len, or batch.too_long=truncate or drop",
            )
        return examples

    def _training(self, rank: int, world: int, group: int | None = None) -> TrainingBatches:
        if self._order is None:
            self._order = self._shown()
        sizes = self._sizes(self._train)
        return TrainingBatches(
            self._order,
            sizes.longest,
            sizes.rows,
            size=self.size,
            max_tokens=self.max_tokens,
            pool=self.pool,
            seed=self.seed,
            group=group or self.accumulate,
            rank=rank,
            world=world,
        )

    def _shown(self) -> Order:
        """Which training examples an epoch shows, and how often."""
        numbers = np.arange(len(self._train))
        if self.too_long == "drop":
            numbers = numbers[self._whole_lengths(self._train) <= self.seq_len]
            if not len(numbers):
                raise InputError(
                    f"every example of the train split has more than batch.seq_len ({self.seq_len:,}) ids",
                    "a larger batch.seq_len, or batch.too_long=truncate",
                )
        if self.balance == "none" and not self.label_weights:
            return Shuffled(numbers, seed=self.seed)
        if self.balance != "none" and self.label_weights:
            raise InputError("batch.balance and batch.label_weights both say how often a label is shown; give one")
        option = "balance" if self.balance != "none" else "label_weights"
        names, groups = np.unique([self._label(int(each), option) for each in numbers], return_inverse=True)
        if self.label_weights:
            return Weighted(numbers, self._weights(names)[groups], seed=self.seed)
        counts = np.bincount(groups)
        return Balanced(
            numbers, groups, each=int(counts.max() if self.balance == "over" else counts.min()), seed=self.seed
        )

    def _label(self, number: int, option: str) -> str:
        names = self._train[number].names()
        if len(names) != 1:
            raise InputError(f"batch.{option} needs examples with one label each; example {number:,} has {len(names)}")
        return names[0]

    def _weights(self, names: NDArray[np.str_]) -> NDArray[np.float64]:
        """A weight for each of the labels."""
        unknown = sorted(set(self.label_weights) - set(names.tolist()))
        if unknown:
            raise InputError(
                f"batch.label_weights: no training example has the label {unknown[0]!r}", f"labels: {', '.join(names)}"
            )
        weights = np.array([self.label_weights.get(str(name), 1.0) for name in names], float)
        if weights.min() < 0 or not weights.any():
            raise InputError(f"batch.label_weights ({self.label_weights}) must be at least 0 and not all 0")
        return weights

    def _whole_lengths(self, examples: Examples) -> NDArray[np.int64]:
        return sizes_of(examples, self.encode, None).longest

    def _sizes(self, examples: Examples) -> Sizes:
        return sizes_of(examples, self.encode, self.seq_len)
