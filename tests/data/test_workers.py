"""Work in processes of their own: the same results in the same order, and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llmcli
from llmcli.data import workers
from llmcli.data.workers import WorkerLostError, Workers
from llmcli.errors import InputError

ROOT = str(Path(llmcli.__file__).parents[1])


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", -1.0)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # where a worker finds this module


def square(number):
    return number * number, os.getpid()


def refuse(number):
    if number == 3:
        raise InputError("three is no number", "take two")
    return number


def chatty(number):
    print("a step that prints")  # noqa: T201
    return number


class OddError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def odd(number):
    raise OddError("an", "error")


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def stay(number):
    time.sleep(60)


def test_results_come_in_order_from_other_processes():
    with Workers(2) as pool:
        found = list(pool.map(square, range(50)))
        assert [result for result, _ in found] == [number**2 for number in range(50)]
        places = {pid for _, pid in found}
        assert os.getpid() not in places and 1 <= len(places) <= 2
        assert list(pool.map(chatty, range(5))) == list(range(5)), "the same processes do the next work"
    assert not any(alive(pid) for pid in places)


def test_little_work_and_one_worker_start_nothing(monkeypatch):
    with Workers(1) as pool:
        assert {pid for _, pid in pool.map(square, range(5))} == {os.getpid()}
    monkeypatch.setattr(workers, "PATIENCE", 60.0)
    with Workers(4) as pool:
        assert {pid for _, pid in pool.map(square, range(5))} == {os.getpid()}


def test_no_more_than_two_items_a_worker_are_held():
    taken = []

    def items():
        for number in range(40):
            taken.append(number)
            yield number

    with Workers(2) as pool:
        for place, _ in enumerate(pool.map(square, items())):
            assert len(taken) <= place + 5


def test_what_goes_wrong_there_is_raised_here():
    with Workers(2) as pool:
        with pytest.raises(InputError, match="three is no number") as caught:
            list(pool.map(refuse, range(5)))
        assert caught.value.hint == "take two"
    with Workers(2) as pool, pytest.raises(RuntimeError, match="OddError: an error"):
        list(pool.map(odd, range(5)))
    with Workers(2) as pool, pytest.raises(WorkerLostError, match="exit code -9: the system killed it") as lost:
        list(pool.map(die, range(5)))
    assert "prepare.workers=1" in lost.value.hint
    with Workers(2) as pool, pytest.raises(InputError, match="cannot be done by several processes"):
        list(pool.map(lambda number: number, range(5)))


def test_workers_end_with_their_parent_and_ignore_the_signals_meant_for_it():
    script = (
        "import sys, time; from llmcli.data import workers; from test_workers import square, stay\n"
        "workers.PATIENCE = -1.0\n"
        "with workers.Workers(2) as pool:\n"
        "    pids = {pid for _, pid in pool.map(square, range(20))}\n"
        "    print(*pids, flush=True)\n"
        "    next(pool.map(stay, [1, 2]) if sys.argv[1] == 'busy' else iter([time.sleep(60)]))\n"
    )
    path = os.pathsep.join([ROOT, str(Path(__file__).parent)])
    for state, number in (("idle", signal.SIGKILL), ("idle", signal.SIGTERM), ("busy", signal.SIGINT)):
        parent = subprocess.Popen(
            [sys.executable, "-c", script, state],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        for pid in pids:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
        assert all(alive(pid) for pid in pids)
        parent.send_signal(number)
        parent.communicate(timeout=30)
        deadline = time.monotonic() + 10
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in pids), (state, number)


def test_workers_do_not_import_torch():
    modules = "llmcli.data.build, llmcli.tokenizers.subword, llmcli.text.normalize"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT}).returncode == 0


def alive(pid):
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
