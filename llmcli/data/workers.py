"""Functions over many items, in processes of their own, results in the order of the items.

A worker is a fresh Python that reads pickled items from its standard input and writes results to its standard output.
So it inherits no threads, imports nothing but what its functions need, never runs the user's script a second time, and
ends by itself when the pipe closes, however its parent came to its end.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Self, TypeVar

from llmcli.errors import InputError, LLMError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Seconds of work that are done in this process before workers are started, which takes each of them 0.3 to 0.5 s.
PATIENCE = 1.5
_SERVE = "from llmcli.data.workers import serve; serve()"


class WorkerLostError(LLMError):
    """A worker ended without an answer, mostly killed for its memory."""


def cores() -> int:
    """How many processors this process may use; macOS and Windows only say how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """`count` processes, started when work has taken PATIENCE seconds; until then, and with one, it is done here."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._spent = 0.0
        self._started: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None  # they only wait for the workers' answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._started:
            worker.stop()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """function(item) for each item, in order; at most two items for each worker are held.

        function must be picklable, and its results follow from the item alone: who computes them is left to chance.
        Raises what it raises, InputError for one that cannot be pickled, WorkerLostError.
        """
        items = iter(items)
        for item in items:
            if self.count > 1 and self._spent > PATIENCE:
                yield from self._map_there(function, itertools.chain([item], items))
                return
            begun = time.perf_counter()
            result = function(item)
            self._spent += time.perf_counter() - begun
            yield result

    def _map_there(self, function: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
        try:
            task = pickle.dumps(function)
        except (pickle.PicklingError, AttributeError, TypeError) as err:
            raise InputError(
                f"this cannot be done by several processes: {err}",
                "prepare.workers=1, or functions that stand at the top of a module",
            ) from err
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.count)
            for _ in range(self.count):
                self._started.append(_Worker())
                self._idle.put(self._started[-1])
        results: deque[Future[Result]] = deque()
        for item in items:
            results.append(self._threads.submit(self._call, task, item))
            if len(results) == 2 * self.count:
                yield results.popleft().result()
        while results:
            yield results.popleft().result()

    def _call(self, task: bytes, item: Any) -> Any:
        worker = self._idle.get()
        try:
            return worker(task, item)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process. Calling it has a pickled function applied to an item there."""

    def __init__(self) -> None:
        # it imports what this process can; -P: and nothing that only happens to lie in the working directory
        path = os.pathsep.join(entry or "." for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout
        self._task = b""

    def __call__(self, task: bytes, item: Any) -> Any:
        new = b"" if task == self._task else task
        self._task = task
        try:
            pickle.dump((new, item), self._to, pickle.HIGHEST_PROTOCOL)
            self._to.flush()
            result, error = pickle.load(self._from)
        except (EOFError, BrokenPipeError, ValueError, pickle.UnpicklingError) as err:
            code = self._process.wait()
            killed = ": the system killed it, mostly for its memory" if code == -signal.SIGKILL else ""
            raise WorkerLostError(
                f"a worker process ended with exit code {code}{killed}",
                "what is done is kept, the same command goes on; prepare.workers=1 takes less memory",
            ) from err
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def serve() -> None:
    """What a worker runs: items and, before the first of each, their function, until the pipe is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which sees to its workers
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints must not stand between the answers
    function: Any = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            task, item = pickle.load(sys.stdin.buffer)
            if task:
                function = pickle.loads(task)
            pickle.dump(_answer(function, item), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
    os._exit(0)  # at once: nobody reads any more


def _answer(function: Callable[[Any], Any], item: Any) -> tuple[Any, Exception | None]:
    try:
        return function(item), None
    except Exception as err:  # noqa: BLE001  raised again in the parent
        try:
            pickle.loads(pickle.dumps(err))
        except Exception:  # noqa: BLE001  its constructor takes something else than it passes on
            return None, RuntimeError(f"{type(err).__name__}: {err}")
        return None, err
