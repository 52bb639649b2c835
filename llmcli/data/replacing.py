"""Windows of text with some tokens hidden, and what decides by which other tokens a generator replaces them."""

from __future__ import annotations

import numpy as np
import torch

from llmcli.data.masking import Masking
from llmcli.data.windows import Batch
from llmcli.seeds import mix


class Replacing:
    """A batch of `Masking`, with draws (N,) in [0, 1): of the tokens that the generator holds possible in each place,
    ordered by their ids, the one where that share of the probability is reached takes it.

    They follow from the seed and the window's own ids, so that a replacement depends on nothing but the weights.
    """

    def __init__(self, masking: Masking) -> None:
        self.masking = masking

    def __call__(self, batch: Batch, seed: int) -> Batch:
        found = self.masking(batch, seed)
        shown = found["ids"].numpy()
        counts = np.bincount(found["places"].numpy() // shown.shape[1], minlength=len(shown))  # hidden tokens of a row
        draws = [
            np.random.default_rng(mix(seed, "replacing", row.tobytes())).random(count, np.float32)
            for row, count in zip(batch["ids"].numpy(), counts, strict=True)
        ]
        return {**found, "draws": torch.from_numpy(np.concatenate(draws))}
