"""A vector for each word from its spelling, so that words never seen before have one too.

Characters are the bytes of UTF-8 between two marks, so no vocabulary of them has to be kept; every digit is read as 0,
since which number it is says little (Collobert et al. 2011). Ids: 0 is padding, 1 and 2 the marks before and after the
word, 3 + b the byte b.

Shapes: N words, L bytes of the longest with its marks, E width of a byte, D width of the vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.models.base import check_sizes

Spelling = Literal["none", "cnn", "lstm"]
_BEGIN, _END, _BYTES = 1, 2, 3
_WIDTH = 3  # of the filters
_DIGITS = bytes.maketrans(b"123456789", b"000000000")


def byte_ids(words: Sequence[str], longest: int) -> NDArray[np.int64]:
    """(N, longest): words beyond `longest` - 2 bytes keep their two ends, where prefixes and suffixes are."""
    found = np.zeros((len(words), longest), np.int64)
    for row, word in zip(found, words, strict=True):
        data = word.encode("utf-8", "surrogatepass").translate(_DIGITS)
        if len(data) > longest - 2:
            head = (longest - 1) // 2
            data = data[:head] + data[len(data) - (longest - 2 - head) :]
        row[: len(data) + 2] = [_BEGIN, *(_BYTES + byte for byte in data), _END]
    return found


class ByteVectors(nn.Module):
    """The vector of each id, (259, E): padding has none, a capital letter that of the small one and of being capital.

    So what is learned of names holds in headlines too, which are all capitals.
    """

    def __init__(self, d_embed: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256 + _BYTES, d_embed)
        self.capital = nn.Parameter(torch.empty(d_embed))
        bound = (3 / d_embed) ** 0.5  # Ma & Hovy 2016
        for parameter in (self.embedding.weight, self.capital):
            nn.init.uniform_(parameter, -bound, bound)
        ids = torch.arange(256 + _BYTES)
        is_capital = (ids >= _BYTES + ord("A")) & (ids <= _BYTES + ord("Z"))
        self.register_buffer("is_capital", is_capital.unsqueeze(1), persistent=False)
        self.register_buffer("small", ids + 32 * is_capital, persistent=False)
        self.register_buffer("real", (ids != 0).unsqueeze(1), persistent=False)

    def forward(self) -> Tensor:
        is_capital, small, real = (cast("Tensor", each) for each in (self.is_capital, self.small, self.real))
        vectors: Tensor = (self.embedding(small) + is_capital * self.capital) * real
        return vectors


class CharacterCNN(nn.Module):
    """The strongest answer of each filter over three bytes (Ma & Hovy 2016): (N, L) -> (N, D).

    A filter's answer is the sum of what it says to each of the three, which is looked up: that takes half of the time
    of a convolution over so few channels.
    """

    def __init__(self, *, d_embed: int, d_out: int) -> None:
        super().__init__()
        check_sizes(d_embed=d_embed, d_characters=d_out)
        self.vectors = ByteVectors(d_embed)
        self.filters = nn.Parameter(torch.empty(_WIDTH, d_embed, d_out))
        self.bias = nn.Parameter(torch.zeros(d_out))
        bound = (3 / (_WIDTH * d_embed)) ** 0.5
        nn.init.uniform_(self.filters, -bound, bound)

    def forward(self, ids: Tensor) -> Tensor:
        said = self.vectors() @ self.filters  # (3, 259, D)
        beside = F.pad(ids, (_WIDTH // 2, _WIDTH // 2))
        answers = sum(F.embedding(beside[:, i : i + ids.size(1)], said[i]) for i in range(_WIDTH))  # (N, L, D)
        assert isinstance(answers, Tensor)
        return F.relu(answers.masked_fill((ids == 0).unsqueeze(2), -torch.inf).amax(1) + self.bias)


class CharacterLSTM(nn.Module):
    """The last states of an LSTM in each direction, half of D each (Lample et al. 2016): (N, L) -> (N, D)."""

    def __init__(self, *, d_embed: int, d_out: int) -> None:
        super().__init__()
        check_sizes(d_embed=d_embed, d_characters=d_out)
        if d_out % 2:
            raise InputError(f"d_characters ({d_out}) must be even: half for each direction")
        self.vectors = ByteVectors(d_embed)
        self.forwards = nn.LSTM(d_embed, d_out // 2, batch_first=True)
        self.backwards = nn.LSTM(d_embed, d_out // 2, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        # two kernels for whole rows are faster than one for packed ones: what is read after the word is not asked for
        lengths = (ids != 0).sum(1)  # (N,)
        place = torch.arange(ids.size(1), device=ids.device)
        turned = ids.gather(1, (lengths.unsqueeze(1) - 1 - place).clamp(min=0))
        vectors, rows = self.vectors(), torch.arange(len(ids), device=ids.device)
        states = [
            kernel(F.embedding(each, vectors))[0][rows, lengths - 1]
            for kernel, each in ((self.forwards, ids), (self.backwards, turned))
        ]
        return torch.cat(states, 1)
