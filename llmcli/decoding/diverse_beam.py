"""Diverse beam search (Vijayakumar et al. 2018): groups of beams that avoid what those before them continue with."""

from __future__ import annotations

import math

from llmcli.decoding.beam import Beam, LengthPenalty
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError


class DiverseBeam(Beam):
    """Beam search in `groups` of beams / groups each, which take turns in every step.

    In what a group chooses from, a token loses `diversity` for each time that a beam of an earlier group took it in
    this step (Hamming diversity). Scores are those of `Beam`, without it; 0 lets every group find the same.

    Raises InputError for sizes that cannot be.
    """

    def __init__(
        self,
        *,
        beams: int,
        n_best: int,
        groups: int,
        diversity: float,
        length_penalty: LengthPenalty,
        alpha: float,
        early_stopping: bool,
        coverage: float,
        penalties: Penalties,
    ) -> None:
        super().__init__(
            beams=beams, n_best=n_best, length_penalty=length_penalty, alpha=alpha, early_stopping=early_stopping,
            coverage=coverage, penalties=penalties,
        )  # fmt: skip
        if groups < 1 or beams % groups:
            raise InputError(f"decoding.groups ({groups}) must be at least 1 and divide decoding.beams ({beams})")
        if not (diversity >= 0 and math.isfinite(diversity)):
            raise InputError(f"decoding.diversity ({diversity}) must be at least 0", "0.5 is usual")
        self.groups, self.diversity = groups, diversity
