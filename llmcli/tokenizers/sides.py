"""A vocabulary for the sources of pairs of texts, and another one for their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from llmcli.tokenizers import store
from llmcli.tokenizers.base import Tokenizer

SOURCE, TARGET = "source.", "target."  # how the names of their files begin


class SidesTokenizer(Tokenizer):
    """The tokenizer of the targets in everything, but that `of_sources` is another one."""

    def __init__(self, *, source: Tokenizer, target: Tokenizer) -> None:
        self._source, self._target = source, target
        self.vocab_size = target.vocab_size
        self.pad_id, self.unk_id = target.pad_id, target.unk_id
        self.bos_id, self.eos_id = target.bos_id, target.eos_id
        self.mask_id, self.cls_id, self.sep_id = target.mask_id, target.cls_id, target.sep_id

    @property
    def of_sources(self) -> Tokenizer:
        return self._source

    def encode(self, text: str) -> list[int]:
        return self._target.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._target.encode_batch(texts)

    def encode_sampled(self, text: str, *, alpha: float, seed: int) -> list[int]:
        return self._target.encode_sampled(text, alpha=alpha, seed=seed)

    def offsets(self, text: str, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        return self._target.offsets(text, ids)

    def decode(self, ids: Sequence[int]) -> str:
        return self._target.decode(ids)

    def token(self, index: int) -> str:
        return self._target.token(index)

    def pieces(self) -> list[bytes]:
        return self._target.pieces()

    def unknown(self, text: str) -> list[str]:
        return self._target.unknown(text)

    def files(self) -> dict[str, bytes]:
        sides = ((SOURCE, self._source), (TARGET, self._target))
        return {f"{side}{name}": data for side, each in sides for name, data in store.to_files(each).items()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        source, target = (
            store.from_files({name.removeprefix(side): data for name, data in files.items() if name.startswith(side)})
            for side in (SOURCE, TARGET)
        )
        return cls(source=source, target=target)
