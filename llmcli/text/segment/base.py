"""What every segmenter offers, and how one is written as plain values and built again from them."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

# Scripts written without spaces, as the inside of a character class: radicals, kana, bopomofo, Han with its extensions
# and compatibility forms, and the punctuation and full-width letters that go with them.
UNSPACED = (
    "\u2e80-\u2fdf\u3001-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff01-\uffef"
    "\U00020000-\U0003ffff"
)

_NO_SPACE_BEFORE = frozenset([*".,;:!?%)]}…”’»/", "..."])
_NO_SPACE_AFTER = frozenset("([{“‘«$#@/")
_CLITIC = re.compile(r"(?:['’](?:s|m|d|ll|re|ve)|n['’]t)", re.IGNORECASE)
_PATH = re.compile(r"(llmcli\.text\.segment\.[a-z_][a-z0-9_]*)\.([A-Za-z]\w*)")


class Segmenter(ABC):
    """Text to a list of its parts: words, characters, sentences.

    Every part is a piece of the text as it stands, no part is empty, and what lies between two parts is white space
    alone. So the parts are `text[start:end]` of `spans`, and nothing but white space is lost.
    """

    unspaced: ClassVar[re.Pattern[str]] = re.compile(f"[{UNSPACED}]")  # beside these `join` puts no space

    def __call__(self, text: str) -> list[str]:
        return [text[start:end] for start, end in self.spans(text)]

    @abstractmethod
    def spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end of every part, in order."""

    def join(self, parts: Sequence[str]) -> str:
        """Running text of the parts: calling undone, but for white space.

        One space stands between two parts, but none beside a character of a script without spaces, before closing
        and after opening punctuation, on both sides of a slash, and before 's, n't and the like. Whether a space
        stands there depends on the two parts alone, so text can be put together while it comes.
        """
        if not parts:
            return ""
        rest = (part if self._adjoin(before, part) else f" {part}" for before, part in pairwise(parts))
        return parts[0] + "".join(rest)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments as plain str, int, bool, None, list and dict."""
        return {}

    def state(self) -> dict[str, Any]:
        """Plain values that `from_state` makes an equal segmenter of."""
        kind = type(self)
        return {"class": f"{kind.__module__}.{kind.__qualname__}", **self.settings()}

    def _adjoin(self, before: str, part: str) -> bool:
        """Whether `part` follows `before` without a space."""
        return (
            part in _NO_SPACE_BEFORE
            or before in _NO_SPACE_AFTER
            or self.unspaced.match(part) is not None
            or self.unspaced.match(before[-1]) is not None
            or _CLITIC.fullmatch(part) is not None
        )

    def __reduce__(self) -> tuple[Callable[[], Segmenter], tuple[()]]:
        return partial(type(self), **self.settings()), ()


def from_state(state: Mapping[str, Any]) -> Segmenter:
    """The segmenter that `state` describes; nothing is called but the constructor of a class of llmcli.text.segment.

    Raises ValueError or TypeError for values that are no segmenter's state.
    """
    settings = dict(state)
    path = settings.pop("class", None)
    match = _PATH.fullmatch(path) if isinstance(path, str) else None
    if match is None:
        raise ValueError(f"{path} is no segmenter of llmcli.text.segment")
    try:
        kind = getattr(importlib.import_module(match[1]), match[2])
    except (ImportError, AttributeError) as err:
        raise ValueError(f"{path} is no segmenter that this version has") from err
    if not (isinstance(kind, type) and issubclass(kind, Segmenter) and kind.__module__ == match[1]):
        raise ValueError(f"{path} is no segmenter")
    made: Segmenter = kind(**settings)
    return made
