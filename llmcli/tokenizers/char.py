"""One id per character of the training text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from llmcli.errors import InputError
from llmcli.tokenizers.base import RESERVED, Tokenizer
from llmcli.tokenizers.utf8 import code_points

_FILE = "characters.json"
_UNK = RESERVED.index("<unk>")


def train(texts: Iterable[str], *, min_frequency: int) -> CharTokenizer:
    """The characters that occur at least `min_frequency` times, in code point order.

    Raises InputError if there are none.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    characters = "".join(sorted(char for char, count in counts.items() if count >= min_frequency))
    if not characters:
        raise InputError(
            f"no character occurs {min_frequency} times or more in the training text",
            hint="lower tokenizer.min_frequency, or check that the text is not empty",
        )
    return CharTokenizer(characters)


class CharTokenizer(Tokenizer):
    """Character k of `characters` is id 16 + k, every other character is unk_id.

    Raises InputError on a lone surrogate.
    """

    exact: ClassVar[bool] = False

    def __init__(self, characters: str) -> None:
        if len(set(characters)) != len(characters):
            raise ValueError("characters must be distinct")
        self.characters = characters
        self.vocab_size = len(RESERVED) + len(characters)
        points = code_points(characters)
        # The entry past the largest known code point serves all larger ones.
        self._ids = np.full(int(points.max(initial=0)) + 2, _UNK, dtype=np.int32)
        self._ids[points] = np.arange(len(RESERVED), self.vocab_size, dtype=np.int32)
        self._text = [""] * len(RESERVED) + list(characters)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._ids[np.minimum(code_points(text), len(self._ids) - 1)].tolist()
        return ids

    def offsets(self, text: str, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        starts = np.arange(len(ids), dtype=np.int64)
        return np.stack((starts, starts + 1), 1)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(self._text.__getitem__, ids))

    def pieces(self) -> list[bytes]:
        return [text.encode() for text in self._text]

    def token(self, index: int) -> str:
        if index < len(RESERVED):
            return RESERVED[index]
        char = self._text[index]
        return char if char.isprintable() and not char.isspace() else f"<U+{ord(char):04X}>"

    def unknown(self, text: str) -> list[str]:
        known = set(self.characters)
        return [char for char in dict.fromkeys(text) if char not in known]

    def files(self) -> dict[str, bytes]:
        return {_FILE: json.dumps(self.characters).encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        characters = json.loads(files[_FILE])
        if not isinstance(characters, str):
            raise ValueError(f"{_FILE} must hold one string")
        return cls(characters)
