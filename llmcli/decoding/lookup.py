"""Prompt look-up decoding (Saxena 2023): the last tokens stood there before, and what came next may come again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmcli.decoding.base import Emitted, GeneratingModel
from llmcli.decoding.check import ExactCheck
from llmcli.decoding.drafted import Drafts, decode_drafted
from llmcli.decoding.penalties import Penalties
from llmcli.decoding.sample import Sample
from llmcli.errors import InputError


class Lookup:
    """The text of decoding=sample with the same values and seed, in fewer steps where it repeats itself or its prompt.

    draft_tokens: how many tokens are guessed at most. ngram: how many last tokens must stand in prompt or text before;
    the place where they did last is followed. The others are those of `Sample`.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(
        self,
        *,
        draft_tokens: int,
        ngram: int,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        typical_p: float | None,
        penalties: Penalties,
    ) -> None:
        check_draft_tokens(draft_tokens)
        if ngram < 1:
            raise InputError(f"decoding.ngram ({ngram}) must be at least 1")
        self.draft_tokens, self.ngram = draft_tokens, ngram
        self.sampler = Sample(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p, penalties=penalties
        )

    def decode(
        self,
        model: GeneratingModel,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: frozenset[int],
        max_new_tokens: int,
        seeds: Sequence[int],
    ) -> Iterator[Emitted]:
        """See `Strategy.decode`."""
        return decode_drafted(
            model,
            prompts,
            Continuations(len(prompts), self.ngram, self.draft_tokens),
            ExactCheck(self.sampler, seeds, model.device),
            end_ids=end_ids,
            max_new_tokens=max_new_tokens,
            penalties=self.sampler.penalties,
        )


class Continuations:
    """A `Drafter` that knows what came after each run of n tokens when it stood last in the row."""

    def __init__(self, n_rows: int, n: int, draft_tokens: int) -> None:
        self._n, self._draft_tokens = n, draft_tokens
        self._after: list[dict[tuple[int, ...], int]] = [{} for _ in range(n_rows)]  # run -> the place behind it
        self._known = [n] * n_rows  # of each row the places before this are in there

    def propose(self, texts: Sequence[Sequence[int]], room: Sequence[int]) -> Drafts:
        return Drafts([self._follow(row, text, room[row]) for row, text in enumerate(texts)])

    def keep(self, places: Sequence[int]) -> None:
        self._after = [self._after[place] for place in places]
        self._known = [self._known[place] for place in places]

    def _follow(self, row: int, text: Sequence[int], room: int) -> list[int]:
        after = self._after[row]
        for place in range(self._known[row], len(text)):
            after[tuple(text[place - self._n : place])] = place
        self._known[row] = max(self._n, len(text))
        if (again := after.get(tuple(text[-self._n :]))) is None:
            return []
        period = len(text) - again  # where the text itself ends, it goes on with what was guessed
        guesses: list[int] = []
        for ahead in range(min(room, self._draft_tokens)):
            guesses.append(text[again + ahead] if ahead < period else guesses[ahead - period])
        return guesses


def check_draft_tokens(draft_tokens: int) -> None:
    if draft_tokens < 1:
        raise InputError(
            f"decoding.draft_tokens ({draft_tokens}) must be at least 1", "decoding=sample guesses nothing"
        )
