"""Text to UTF-8 and to code points, with one policy for text that is not Unicode.

A lone surrogate (half of a UTF-16 pair, which Python makes of undecodable bytes on the command line) has no
UTF-8 form. It is refused here, so that whatever `decode` returns can be printed and written.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmcli.errors import InputError


def utf8_bytes(text: str) -> bytes:
    """UTF-8 of the text. Raises InputError at a lone surrogate."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as err:
        raise _surrogate(text, err.start) from err


def code_points(text: str) -> NDArray[np.uint32]:
    """One number per character. Raises InputError at a lone surrogate."""
    try:
        data = text.encode("utf-32-le")
    except UnicodeEncodeError as err:
        raise _surrogate(text, err.start) from err
    return np.frombuffer(data, dtype="<u4")


def character_spans(text: str, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Spans of characters (N, 2) of consecutive parts of the text's UTF-8, whose sizes (N,) in bytes are at least 1.

    A part that begins or ends inside a character has all of it.
    """
    data = np.frombuffer(utf8_bytes(text), np.uint8)
    character = np.cumsum((data & 0xC0) != 0x80) - 1  # that each byte belongs to
    ends = sizes.cumsum()
    return np.stack((character[ends - sizes], character[ends - 1] + 1), 1).astype(np.int64)


def _surrogate(text: str, position: int) -> InputError:
    return InputError(
        f"the text is not valid Unicode: lone surrogate U+{ord(text[position]):04X} at character {position}",
        hint="save the text as UTF-8, or remove the character",
    )
