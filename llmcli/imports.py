"""Importing torch and Lightning in as little time as it takes, and in one go."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def in_one_go(interrupted: Callable[[], object]) -> Iterator[None]:
    """Within, imports are neither searched for garbage nor cut short.

    They make some 750,000 objects that stay. Looking through those again and again took a fifth of the time, and a
    last look at them, when collecting goes on, would take as long: what is there at the end is never looked through.

    Ctrl-C is heeded at the end, a second one at once: a package that tries an optional import would swallow it, or take
    it for a package that is broken; `interrupted` says meanwhile that it was seen. Does nothing where torch has been
    imported.
    """
    if "torch" in sys.modules:
        yield
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _late_interrupt(interrupted):
            yield
    finally:
        if collecting:
            gc.freeze()
            gc.enable()


@contextmanager
def _late_interrupt(interrupted: Callable[[], object]) -> Iterator[None]:
    """Raises KeyboardInterrupt at the end where Ctrl-C was pressed within."""
    pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        interrupted()

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
