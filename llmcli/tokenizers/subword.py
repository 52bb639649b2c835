"""Subword units: byte-pair encoding (Sennrich et al. 2016) and unigram (Kudo 2018), trained by SentencePiece.

Every text comes back exactly: no normalisation, no added or removed spaces, characters outside the vocabulary
as their UTF-8 bytes. SentencePiece writes a space as U+2581 and so cannot tell the two apart; a U+2581 in the
text therefore never reaches it and is always encoded as its three bytes.

Newlines are characters like others, so units such as ":\\n" are learned: 7 % fewer tokens on Python source
than with training line by line. Runs of spaces are units of their own, which saves a third on indented text.
"""

from __future__ import annotations

import heapq
import io
import random
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Literal, Self, get_args

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from llmcli.errors import InputError
from llmcli.tokenizers.base import RESERVED, Tokenizer
from llmcli.tokenizers.cuts import PartEncoder, parts_of
from llmcli.tokenizers.utf8 import character_spans, utf8_bytes

Algorithm = Literal["bpe", "unigram"]

_FILE = "sentencepiece.model"
_BLOCK = 4096  # characters; what SentencePiece sees as one sentence
_FIRST_BYTE = len(RESERVED)  # the 256 byte pieces follow the reserved ids
_FIRST_PIECE = _FIRST_BYTE + 256
_SPACE = "\u2581"
_SPACE_UTF8 = _SPACE.encode()
_SPACE_IDS = [_FIRST_BYTE + byte for byte in _SPACE_UTF8]
# SentencePiece's own marks for the end of input, a space and an unknown character: its trainer refuses them in text.
_MARKS = "\0\u2581\u2585"
_SAMPLING = threading.Lock()


def train(
    texts: Iterable[str],
    *,
    algorithm: Algorithm,
    vocab_size: int,
    character_coverage: float,
    max_piece_length: int,
    sample_characters: int,
    seed: int,
) -> SubwordTokenizer:
    """Learn units from a random sample of blocks of the text, at most `sample_characters` in all.

    Deterministic for a given stream and seed. A text too small for `vocab_size` units gives as many as it has: the
    result's own vocab_size says how many. character_coverage: the share of the text whose characters get a unit of
    their own, as long as half of the units are left for longer ones; other characters are bytes. max_piece_length:
    characters.

    Raises:
        InputError: an unknown algorithm, vocab_size without room beside the reserved ids and the bytes, or no text.
    """
    if algorithm not in get_args(Algorithm):
        raise InputError(f"algorithm ({algorithm!r}) must be one of {', '.join(get_args(Algorithm))}")
    if vocab_size <= _FIRST_PIECE:
        raise InputError(f"vocab_size ({vocab_size}) must be above {_FIRST_PIECE}: reserved ids and bytes")
    blocks = _sample(texts, sample_characters, seed)
    cut = dict.fromkeys(map(ord, _rare(blocks, character_coverage, (vocab_size - _FIRST_PIECE + 1) // 2)), "\0")
    # SentencePiece drops the newline at the end of a sentence, and fails if no sentence is left.
    parts = (part for block in blocks for part in block.translate(cut).split("\0"))
    sentences = [utf8_bytes(part) for part in parts if part.strip("\r\n")]
    if not sentences:
        raise InputError("the tokenizer has no text to learn from", hint="check that the source is not empty")
    model = io.BytesIO()
    pad, unk, bos, eos, *controls = RESERVED
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type=algorithm,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,  # the rare ones are cut out above, which has no lower limit
        max_sentencepiece_length=max_piece_length,
        max_sentence_length=4 * _BLOCK,  # bytes
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        pad_piece=pad,
        unk_piece=unk,
        bos_piece=bos,
        eos_piece=eos,
        control_symbols=controls,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        num_threads=1,  # sums of counts depend on the number of threads
        minloglevel=2,
    )
    return SubwordTokenizer(model.getvalue())


class SubwordTokenizer(Tokenizer):
    """A SentencePiece model whose first ids are the reserved ones and the 256 bytes.

    Raises ValueError if `model` is something else, and InputError from `encode` on a lone surrogate.
    """

    exact: ClassVar[bool] = True

    def __init__(self, model: bytes) -> None:
        if not model:
            raise ValueError("the SentencePiece model is empty")
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.vocab_size()
        self._pieces: list[str] = [self._processor.id_to_piece(i) for i in range(self.vocab_size)]
        expected = [*RESERVED, *(f"<0x{byte:02X}>" for byte in range(256))]
        if self._pieces[:_FIRST_PIECE] != expected:
            raise ValueError("the SentencePiece model does not start with the reserved ids and the bytes")
        self._bytes = [b""] * len(RESERVED)
        self._bytes += [bytes([byte]) for byte in range(256)]
        self._bytes += [piece.replace(_SPACE, " ").encode() for piece in self._pieces[_FIRST_PIECE:]]
        self._sizes = np.array(list(map(len, self._bytes)), np.int64)

        learned = range(_FIRST_PIECE, self.vocab_size)
        # Scores of byte-pair encoding are ranks; those of a unigram model are logarithms, whose rounded sums make the
        # best way to cut a word depend on what stands before it.
        ranked = all(self._processor.get_score(i).is_integer() for i in learned)
        pattern = parts_of(map(self._pieces.__getitem__, learned)) if ranked else None
        self._parts = PartEncoder(pattern, self._encode_whole) if pattern else None

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if self._parts is None:
            return self._encode_whole(texts)
        for text in texts:
            utf8_bytes(text)  # refuses a lone surrogate by its place in the whole text
        return self._parts(texts)

    def _encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        batch = [utf8_bytes(text) for text in texts]
        ids: list[list[int]] = self._processor.encode(batch, num_threads=1)  # preparing has processes instead
        for row, data in enumerate(batch):
            if _SPACE_UTF8 in data:
                ids[row] = self._encode_around_marks(data)
        return ids

    def encode_sampled(self, text: str, *, alpha: float, seed: int) -> list[int]:
        """BPE-dropout (Provilkov et al. 2020): each merge is left out with probability alpha. Unigram (Kudo 2018): one
        way to cut the text, drawn with a probability proportional to its own to the power alpha.
        """
        parts = utf8_bytes(text).split(_SPACE_UTF8)
        # SentencePiece has one seed for the process, and before version 0.2.3 a thread takes it up only once
        with _SAMPLING, ThreadPoolExecutor(1) as fresh:
            sentencepiece.set_random_generator_seed(seed % (2**32 - 1))  # 2^32 - 1 it takes for none
            first, *others = fresh.submit(self._sampled, parts, alpha).result()
        return [*first, *(index for row in others for index in (*_SPACE_IDS, *row))]

    def _sampled(self, parts: Sequence[bytes], alpha: float) -> list[list[int]]:
        return [self._processor.encode(part, enable_sampling=True, alpha=alpha, nbest_size=-1) for part in parts]

    def _encode_around_marks(self, data: bytes) -> list[int]:
        first, *others = self._processor.encode(data.split(_SPACE_UTF8))
        ids: list[int] = first
        for part in others:
            ids += _SPACE_IDS
            ids += part
        return ids

    def offsets(self, text: str, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        return character_spans(text, self._sizes[np.asarray(ids, np.int64)])

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self._bytes.__getitem__, ids)).decode("utf-8", errors="replace")

    def pieces(self) -> list[bytes]:
        return list(self._bytes)

    def token(self, index: int) -> str:
        return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in self._pieces[index])

    def files(self) -> dict[str, bytes]:
        return {_FILE: self._model}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        return cls(files[_FILE])


def _sample(texts: Iterable[str], limit: int, seed: int) -> list[str]:
    """A uniform sample of the stream's blocks, in its order, with at most `limit` characters held at any time."""
    draw = random.Random(seed).random
    heap: list[tuple[float, int, str]] = []  # the blocks with the largest keys
    size = count = 0
    for text in texts:
        for start in range(0, len(text), _BLOCK):
            block = text[start : start + _BLOCK]
            heapq.heappush(heap, (draw(), count, block))
            count += 1
            size += len(block)
            while size > limit and len(heap) > 1:
                size -= len(heapq.heappop(heap)[2])
    return [block for _, _, block in sorted(heap, key=lambda entry: entry[1])]


def _rare(blocks: Iterable[str], coverage: float, limit: int) -> set[str]:
    """The characters that get no unit: all but the most frequent, which make up `coverage` or are `limit` many."""
    counts: Counter[str] = Counter()
    for block in blocks:
        counts.update(block)
    for mark in _MARKS:
        del counts[mark]
    wanted = coverage * counts.total()
    kept: set[str] = set()
    for char, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if wanted <= 0 or len(kept) == limit:
            break
        kept.add(char)
        wanted -= count
    return (counts.keys() | set(_MARKS)) - kept
