"""How well texts are coded and written again: the parts of the evidence lower bound, and a closer bound.

Of single texts: `reconstruction` is -log p(text | code) and `kl` KL(posterior || prior), their sum the negative ELBO;
`bound` is the negative importance-weighted bound. All in nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llmcli.metrics.base import Mean, Metric

ACTIVE = 0.01  # variance from which on a dimension counts as active (Burda et al. 2016)
_LARGEST = 700.0  # nats; exp of more is no float


class ReconstructionNLL(Mean):
    """-log p(text | code), nats a text."""

    name = "reconstruction_nll"
    higher_is_better = False
    sums = ("reconstruction", "texts")


class ReconstructionPerToken(Mean):
    """-log p(text | code), nats a token."""

    name = "reconstruction_nll_per_token"
    higher_is_better = False
    sums = ("reconstruction", "n")


class KL(Mean):
    """Nats of the code of a text: how far its posterior is from the prior."""

    name = "kl"
    higher_is_better = True  # of models with equal bounds the one that uses its code
    sums = ("kl", "texts")


class KLPerToken(Mean):
    """Nats of the code for each token of the text."""

    name = "kl_per_token"
    higher_is_better = True
    sums = ("kl", "n")


class ELBO(Metric):
    """The evidence lower bound of log p(text), nats a text. A token's share of it, negative, is the loss."""

    name = "elbo"
    higher_is_better = True
    sums = ("reconstruction", "kl", "texts")

    def figure(self, totals: Mapping[str, float]) -> float:
        return -(totals["reconstruction"] + totals["kl"]) / max(1.0, totals["texts"])


class ImportanceWeightedNLL(Mean):
    """-log p(text) by the importance-weighted bound (Burda et al. 2016), nats a text: from above, closer with each code
    drawn."""

    name = "iw_nll"
    higher_is_better = False
    sums = ("bound", "texts")


class ImportanceWeightedPerplexity(Metric):
    """exp of the same bound for each token."""

    name = "iw_perplexity"
    higher_is_better = False
    sums = ("bound", "n")

    def figure(self, totals: Mapping[str, float]) -> float:
        return math.exp(min(totals["bound"] / max(1.0, totals["n"]), _LARGEST))


class ActiveUnits(Metric):
    """Dimensions of the code whose posterior mean has a variance above 0.01 over the texts (Burda et al. 2016).

    The sums are of the means and of their squares, (Z,) each.
    """

    name = "active_units"
    higher_is_better = True
    sums = ("means", "mean_squares", "texts")

    def __init__(self, *, d_code: int) -> None:
        super().__init__({"means": (d_code,), "mean_squares": (d_code,)})

    def figure(self, totals: Mapping[str, Any]) -> float:
        texts = max(1.0, totals["texts"])
        means: Tensor = totals["means"] / texts
        return float((totals["mean_squares"] / texts - means**2 > ACTIVE).sum())
