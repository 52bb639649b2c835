"""Windows of text with an order in which some of their tokens are predicted: what XLNet learns from (Yang et al. 2019).

Which tokens are predicted, and in which order, follows from the seed and the window's own ids alone, as with masks.

Shapes: B rows, T window length, M targets of a row, C candidates of a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmcli.data.masking import Ids, Marking
from llmcli.data.windows import Batch
from llmcli.errors import InputError
from llmcli.losses import IGNORED
from llmcli.seeds import mix
from llmcli.tokenizers.base import Tokenizer


class Permutation:
    """Predicts the last 1 / k of the tokens of each window in a random order of all of them; the others are known.

    Targets come in spans of 1 to `longest_span` neighbours, one of L with a weight of 1 / L and at a random place among
    k L tokens, as in the released code. marks, and what is never a target: as `Marking` has it.

    Raises InputError for sizes that cannot be, and a tokenizer that lacks a special token.
    """

    def __init__(self, tokenizer: Tokenizer, *, k: int, longest_span: int, marks: bool) -> None:
        if k < 2:
            raise InputError(f"task.k ({k}) must be at least 2: some tokens have to be known")
        if longest_span < 1:
            raise InputError(f"task.longest_span ({longest_span}) must be at least 1")
        self.k = k
        self.marking = Marking(tokenizer, marks=marks)
        self._lengths = np.arange(1, longest_span + 1)
        self._weights = 1 / self._lengths / (1 / self._lengths).sum()

    def __call__(self, batch: Batch, seed: int) -> Batch:
        """Windows of `llmcli.data.windows` -> ids (B, T); order (B, T), 0 for known tokens and 1, 2, ... for targets;
        places and targets (B, M), where they stand and what they are (-100 where a row has fewer); n_tokens counts
        them, n_ids the tokens without padding; mask and index as they are.
        """
        ids, candidates = self.marking(batch)
        order = np.zeros_like(ids)
        found = []
        for row, (tokens, may) in enumerate(zip(ids, candidates, strict=True)):
            rng = np.random.default_rng(mix(seed, "permutation", tokens.tobytes()))
            chosen = self._chosen(np.flatnonzero(may), rng)
            order[row, chosen] = np.arange(1, len(chosen) + 1)
            found.append(chosen)
        places = np.zeros((len(ids), max(1, *map(len, found))), np.int64)
        targets = np.full_like(places, IGNORED)
        for row, chosen in enumerate(found):
            places[row, : len(chosen)] = chosen
            targets[row, : len(chosen)] = ids[row, chosen]
        made: dict[str, Any] = {
            "ids": torch.from_numpy(ids),
            "order": torch.from_numpy(order),
            "places": torch.from_numpy(places),
            "targets": torch.from_numpy(targets),
            "n_tokens": sum(map(len, found)),
            "n_ids": int(batch["mask"].sum()) if "mask" in batch else ids.size,
            "index": batch["index"],
        }
        return {**made, "mask": batch["mask"]} if "mask" in batch else made

    def _chosen(self, candidates: Ids, rng: np.random.Generator) -> Ids:
        """Places (M,) of the targets of a row, in the order in which they are predicted."""
        wanted = max(len(candidates) // self.k, min(1, len(candidates) - 1), 0)  # one at least must be known
        if not wanted:
            return candidates[:0]
        in_spans = self._spans(len(candidates), rng)
        others = np.setdiff1d(np.arange(len(candidates)), in_spans, assume_unique=True)
        # as many as were wanted: spans in random order lose some, or single tokens join them
        preferred = np.concatenate((rng.permutation(in_spans), rng.permutation(others)))
        chosen: Ids = candidates[rng.permutation(preferred[:wanted])]
        return chosen

    def _spans(self, n_candidates: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Numbers of candidates (of C) that stand in spans; their share is 1 / k on average."""
        lengths = rng.choice(self._lengths, n_candidates // self.k + 1, p=self._weights)
        room = self.k * lengths
        begins = room.cumsum() - room + rng.integers(room - lengths + 1)
        within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        numbers: NDArray[np.int64] = np.repeat(begins, lengths) + within
        return numbers[numbers < n_candidates]
