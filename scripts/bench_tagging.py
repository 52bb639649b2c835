"""What the parts of a tagger cost on one core: python scripts/bench_tagging.py

The CRF beside one that autograd differentiates, a bidirectional LSTM over padded rows beside one over packed ones: CPU
milliseconds of forward and backward, the median of 15, in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llmcli import ui
from llmcli.layers.crf import CRF, log_partition, path_scores
from llmcli.models.recurrent import Layer

ROUNDS = 15


def medians(*ways: Callable[[], Tensor]) -> list[float]:
    """Milliseconds of CPU time of each."""
    spent: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, times in zip(ways, spent, strict=True):
            began = time.process_time()
            way().backward()
            times.append(1000 * (time.process_time() - began))
    return [statistics.median(times) for times in spent]


def crf(batch: int, words: int, tags: int) -> list[float]:
    layer, scores = CRF(tags), torch.randn(batch, words, tags, requires_grad=True)
    real = torch.arange(words) < torch.randint(words // 2, words + 1, (batch, 1))
    labels = torch.randint(0, tags, (batch, words))
    start, transitions, end = potentials = layer.potentials

    def closed() -> Tensor:
        return (log_partition(scores, real, potentials) - path_scores(scores, labels, real, potentials)).sum()

    def recorded() -> Tensor:
        alpha = start + scores[:, 0]
        for word in range(1, words):
            sums = (alpha.unsqueeze(2) + transitions + scores[:, word].unsqueeze(1)).logsumexp(1)
            alpha = torch.where(real[:, word, None], sums, alpha)
        return ((alpha + end).logsumexp(1) - path_scores(scores, labels, real, potentials)).sum()

    return medians(closed, recorded)


def lstm(batch: int, words: int, width: int) -> list[float]:
    layer = Layer(cell="lstm", d_in=width, d_out=width, causal=False, weight_drop=0.0)
    x = torch.randn(batch, words, width, requires_grad=True)
    lengths = torch.randint(3 * words // 4, words + 1, (batch,))

    def packed() -> Tensor:
        y, _ = layer.kernel(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(y, batch_first=True)[0].sum()

    return medians(lambda: layer(x, None, lengths)[0].sum(), packed)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for sizes in ((32, 15, 9), (64, 40, 21), (32, 25, 45), (32, 120, 21)):
        rows.append(("CRF", " x ".join(map(str, sizes)), *crf(*sizes)))
    for sizes in ((32, 15, 200), (64, 40, 256), (16, 100, 512)):
        rows.append(("LSTM", " x ".join(map(str, sizes)), *lstm(*sizes)))
    ui.table(
        [(name, sizes, f"{ours:.1f}", f"{plain:.1f}", f"{plain / ours:.1f}") for name, sizes, ours, plain in rows],
        ("", "batch x words x tags or width", "ours", "plain", "ratio"),
        right=(2, 3, 4),
        stdout=True,
    )


if __name__ == "__main__":
    main()
