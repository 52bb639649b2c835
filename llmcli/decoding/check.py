"""Whether a guess stays: so that guessing changes how fast a text is made, and not which texts are made how often.

Shapes: B rows, K guesses, T = K + 1 places, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.decoding.drafted import Drafts
from llmcli.decoding.sample import Sample, Uniforms, draw, row_seeds


class ExactCheck:
    """A `Check` that chooses exactly as `sampler` does.

    A guess that was drawn stays with probability min(1, p / q), of p, what the model gives it, and q, what it was drawn
    with; what replaces it is drawn from max(p - q, 0) (Leviathan et al. 2023; Chen et al. 2023), so that each token has
    probability p whatever q. One that was not drawn stays where it is what `sampler` draws, at this place of this row:
    the same with a q of 1, and the text is the one that `sampler` makes by itself.

    Numbers are drawn by row and place. Those behind a guess that was wrong have decided nothing yet, and may be used
    again.
    """

    def __init__(self, sampler: Sample, seeds: Sequence[int], device: torch.device) -> None:
        self._sampler = sampler
        self._tokens = Uniforms(seeds, device)
        self._stays = Uniforms([row_seeds(seed, 1)[0] for seed in seeds], device)

    def __call__(self, logits: Tensor, drafts: Drafts, rows: Sequence[int], places: Sequence[int]) -> Tensor:
        """logits (B, T, V) float32 after penalties, of each row from its next place on -> ids (B, T)."""
        n_places = logits.shape[1]
        flat = logits.flatten(0, 1)  # (B T, V)
        if self._sampler.temperature == 0:
            return flat.argmax(dim=-1).view(-1, n_places)
        kept = self._sampler.filter(flat)
        uniform = self._tokens.at(rows, places, n_places)  # (B, T)
        if drafts.logits is None:
            return draw(kept, uniform.flatten()).view(-1, n_places)
        wide = torch.float32 if kept.device.type == "mps" else torch.float64
        p = kept.softmax(dim=-1, dtype=wide).view_as(logits)
        q = torch.zeros_like(p)
        q[:, : n_places - 1] = drafts.logits.softmax(dim=-1, dtype=wide)
        guessed = torch.tensor([[*ids, *[-1] * (n_places - len(ids))] for ids in drafts.ids], device=p.device)
        q = q.masked_fill((guessed < 0)[..., None], 0.0)  # where nothing was guessed p itself is drawn from
        at = guessed.clamp(min=0)[..., None]
        p_guess, q_guess = p.gather(2, at)[..., 0], q.gather(2, at)[..., 0]  # (B, T)
        stays = (guessed >= 0) & (self._stays.at(rows, places, n_places).to(wide) * q_guess < p_guess)
        rest = (p - q).clamp(min=0)
        rest = torch.where(rest.sum(dim=-1, keepdim=True) > 0, rest, p)  # p = q: every guess stays
        return torch.where(stays, guessed, draw(rest.log().flatten(0, 1), uniform.flatten()).view(-1, n_places))
