"""Ids to text while they come, without ever showing half a character or part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.errors import InputError
from llmcli.tokenizers.base import Tokenizer

_REPLACEMENT = "\ufffd"
_WINDOW = 24  # ids that are decoded again with each new one, at most
_OVERLAP = 8  # ids kept when the window moves: more than the 4 of the longest character given byte by byte


class TextStream:
    """Text of a growing list of ids, released as soon as it is final.

    All that `push` and `finish` return, joined, is `cut(tokenizer.decode(ids), stop)`. The cost of one id
    does not grow with the text: only a window of the last ids is decoded.

    Raises InputError if a stop string is empty.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        check_stop(stop)
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._window: list[int] = []
        self._taken = 0  # characters of the window's text that have gone to `_held`
        self._held = ""  # final text that may yet turn out to be the beginning of a stop string

    def push(self, index: int) -> str:
        """Take one more id, return the text that it makes final ("" once stopped)."""
        if self.stopped:
            return ""
        if not self._tokenizer.decode([index]):
            return ""  # a special id: it has no text and would only fill the window
        self._window.append(index)
        text = self._tokenizer.decode(self._window)
        # An unfinished UTF-8 sequence shows as one U+FFFD, which later bytes may still turn into a character.
        final = len(text) - text.endswith(_REPLACEMENT)
        fresh = text[self._taken : final]
        self._taken = max(self._taken, final)
        if len(self._window) > _WINDOW:
            self._move_window(text)
        return self._release(fresh)

    def finish(self) -> str:
        """The rest: an unfinished character as U+FFFD, what looked like the beginning of a stop string."""
        if self.stopped:
            return ""
        rest = self._tokenizer.decode(self._window)[self._taken :]
        self._window, self._taken = [], 0
        released = self._release(rest) + self._held  # nothing is held after a stop
        self._held = ""
        return released

    def _move_window(self, text: str) -> None:
        """Drop the oldest ids, unless that would change the text of those that stay.

        More than four bytes before the end, where a character begins cannot be changed by bytes that follow,
        and words are joined by looking at neighbours only: it is enough that the text ends as before.
        """
        kept = self._window[-_OVERLAP:]
        tail = self._tokenizer.decode(kept)
        taken = self._taken - (len(text) - len(tail))
        if taken >= 0 and text.endswith(tail):
            self._window, self._taken = kept, taken

    def _release(self, fresh: str) -> str:
        held = self._held + fresh
        end = _first_stop(held, self._stop)
        if end is not None:
            self.stopped, self._held = True, ""
            return held[:end]
        keep = _partial_stop(held, self._stop)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]


def check_stop(stop: Sequence[str]) -> None:
    """Raises InputError if a stop string is empty."""
    if "" in stop:
        raise InputError("a stop string is empty", hint="give at least one character, or leave it out")


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the stop string that is complete first (of several that end together, the longest)."""
    start = _first_stop(text, stop)
    return text if start is None else text[:start]


def _first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string that is complete first begins."""
    found = [(start + len(item), start) for item in stop if (start := text.find(item)) >= 0]
    return min(found)[1] if found else None


def _partial_stop(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins a stop string."""
    return max((n for item in stop for n in range(1, len(item)) if text.endswith(item[:n])), default=0)
