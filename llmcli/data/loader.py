"""A loader of planned batches that resumes exactly, in this process or with workers."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llmcli.data.windows import Batch, Plan

AHEAD = 2  # batches that wait, ready, for a step


class PlanLoader:
    """Iterates the batches of one epoch after another.

    pin: for a GPU, a thread makes the next batches while a step runs and keeps them in pinned memory, from which they
    are copied without anybody waiting.

    Its state is the place of the next batch, counted when one is handed over, not when a worker made it; so
    it resumes in O(1) wherever it stopped. `len` is the length of a whole epoch: without it Lightning would
    fetch a batch ahead and count it. Only iterating to the end of an epoch begins the next one.
    """

    def __init__(self, plan: Plan, *, num_workers: int, pin: bool = False) -> None:
        self.plan, self.num_workers, self.pin = plan, num_workers, pin
        self._epoch = self._position = 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        if self._position >= len(self):
            self._epoch, self._position = self._epoch + 1, 0
        for batch in self._made():
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._epoch, self._position = int(state["epoch"]), int(state["position"])

    def _made(self) -> Iterator[Batch]:
        """What is left of the epoch; the place is counted when a batch is handed over, however many are ready."""
        batches = self._worker_batches() if self.num_workers else self._batches()
        return made_ahead(batches, pinned) if self.pin else batches

    def _batches(self) -> Iterator[Batch]:
        for number in range(self._position, len(self)):
            yield self.plan.batch(self._epoch, number)

    def _worker_batches(self) -> Iterator[Batch]:
        # its own generator: otherwise a DataLoader draws from the global one and so changes the training
        yield from DataLoader(
            _Epoch(self.plan, self._epoch),
            batch_size=None,
            sampler=range(self._position, len(self)),
            num_workers=self.num_workers,
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),
        )


class EpochLoader(PlanLoader):
    """The same epoch each time it is iterated, from its beginning: for evaluation."""

    def __iter__(self) -> Iterator[Batch]:
        self._position = 0
        yield from self._made()


def pinned(batch: Batch) -> Batch:
    """The batch with its tensors in memory that a GPU reads by itself."""
    return {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in batch.items()}


def made_ahead(batches: Iterator[Batch], ready: Callable[[Batch], Batch]) -> Iterator[Batch]:
    """The same batches, each made and put through `ready` in a thread, at most `AHEAD` before they are asked for.

    An error of the thread is raised where its batch would have come. The thread ends with the last batch, or with the
    iteration.
    """
    waiting: queue.Queue[Batch | Exception | None] = queue.Queue(AHEAD)
    over = threading.Event()

    def put(item: Batch | Exception | None) -> None:
        while not over.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put(ready(batch))
                if over.is_set():
                    return
            put(None)
        except Exception as err:  # noqa: BLE001  # raised in the other thread
            put(err)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        over.set()
        thread.join()


class _Epoch(Dataset[Batch]):
    """One epoch's batches by number, as a DataLoader wants them."""

    def __init__(self, plan: Plan, epoch: int) -> None:
        self.plan, self.epoch = plan, epoch

    def __getitem__(self, number: int) -> Batch:
        return self.plan.batch(self.epoch, number)


def _leave_signals_to_the_parent(worker: int) -> None:
    # a signal to the process group would kill the workers under the step that is still to be saved
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
