"""What every tokenizer offers, and the special ids that every trained one reserves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from llmcli.errors import InputError

# Every tokenizer trained here starts with these ids, so that no later task has to resize an embedding.
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>", "<mask>", "<cls>", "<sep>")
SPARES = tuple(f"<spare_{i}>" for i in range(9))
RESERVED = SPECIALS + SPARES  # 16 ids


class Tokenizer(ABC):
    """Text to ids and back.

    `encode` never produces a special id from the user's text: "<eos>" typed in a document is five characters.
    """

    vocab_size: int
    pad_id: int | None = 0
    unk_id: int | None = 1
    bos_id: int | None = 2
    eos_id: int | None = 3
    mask_id: int | None = 4
    cls_id: int | None = 5
    sep_id: int | None = 6
    exact: ClassVar[bool] = False  # decode(encode(text)) == text for every text
    whole_words: ClassVar[bool] = False  # each id is a word of its own

    @property
    def of_sources(self) -> Tokenizer:
        """What reads the sources of pairs of texts: this one too, unless they have a vocabulary of their own."""
        return self

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of the text, without special ids (unk_id where the vocabulary has no entry)."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def encode_sampled(self, text: str, *, alpha: float, seed: int) -> list[int]:
        """Ids that decode to the same text, of the many that do: the same for the same seed. alpha: how freely.

        Raises InputError unless there are several ways to cut a text.
        """
        raise InputError(
            "augment=[subword_sampling] needs a tokenizer that can cut a text in several ways",
            "tokenizer=bpe or tokenizer=unigram",
        )

    @abstractmethod
    def offsets(self, text: str, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        """Where each id stands in the text that it was made of, (ids, 2): first character, and the one after its last.

        ids: all that `encode` or `encode_sampled` gave of the text. Of a character that is several ids each has all of
        it; an id of several characters has those of which it holds a part.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special ids give nothing, an unfinished UTF-8 sequence gives U+FFFD."""

    @abstractmethod
    def token(self, index: int) -> str:
        """A printable name of one id, for tables and plots."""

    def pieces(self) -> list[bytes]:
        """UTF-8 of each id, b"" of special ones: the text of ids is what theirs are, joined.

        Raises InputError where it is not, as the spaces between words depend on both.
        """
        raise InputError("the text of this run's tokenizer is more than that of its ids", "tokenizer=bpe, char or byte")

    def unknown(self, text: str) -> list[str]:
        """The distinct characters or words of `text` that `encode` maps to unk_id, in order of appearance."""
        return []

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The whole state as named text or model files; `from_files` is the inverse."""

    @classmethod
    @abstractmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self: ...
