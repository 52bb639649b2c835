"""One id per byte of UTF-8: no training, no unknown characters, 272 ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from llmcli.tokenizers.base import RESERVED, Tokenizer
from llmcli.tokenizers.utf8 import character_spans, utf8_bytes

_FIRST = len(RESERVED)


def train(texts: Iterable[str]) -> ByteTokenizer:
    """Nothing is learned from `texts`, which is not read."""
    return ByteTokenizer()


class ByteTokenizer(Tokenizer):
    """Byte b of the text is id 16 + b.

    Raises InputError on a lone surrogate, which has no UTF-8 form.
    """

    exact: ClassVar[bool] = True

    def __init__(self) -> None:
        self.vocab_size = _FIRST + 256

    def encode(self, text: str) -> list[int]:
        ids: list[int] = (np.frombuffer(utf8_bytes(text), dtype=np.uint8) + np.int32(_FIRST)).tolist()
        return ids

    def offsets(self, text: str, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        return character_spans(text, np.ones(len(ids), np.int64))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - _FIRST for i in ids if i >= _FIRST).decode("utf-8", errors="replace")

    def pieces(self) -> list[bytes]:
        return [b""] * _FIRST + [bytes([byte]) for byte in range(256)]

    def token(self, index: int) -> str:
        if index < _FIRST:
            return RESERVED[index]
        byte = index - _FIRST
        return chr(byte) if 0x20 < byte < 0x7F else f"<0x{byte:02X}>"

    def files(self) -> dict[str, bytes]:
        return {}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        return cls()
