"""Speculative decoding (Leviathan et al. 2023; Chen et al. 2023): a small model guesses, the large one checks.

Shapes: B rows, K guesses, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from llmcli.decoding.base import Emitted, GeneratingModel
from llmcli.decoding.check import ExactCheck
from llmcli.decoding.drafted import Drafts, decode_drafted, read_rows
from llmcli.decoding.lookup import check_draft_tokens
from llmcli.decoding.loop import kept_tokens, prefill
from llmcli.decoding.penalties import Penalties
from llmcli.decoding.prefix_cache import UNLIMITED, PrefixCache
from llmcli.decoding.sample import Sample, Uniforms, draw, row_seeds
from llmcli.models.base import State


class Speculative:
    """Texts as likely as those of decoding=sample with the same values, in fewer steps; at temperature 0 the same text.

    draft: a smaller run with the same vocabulary, which `use` brings. draft_tokens: how many tokens it guesses for each
    step of the model. The others are those of `Sample`; what the draft draws from is changed in the same way.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(
        self,
        *,
        draft: str | None,
        draft_tokens: int,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        typical_p: float | None,
        penalties: Penalties,
    ) -> None:
        check_draft_tokens(draft_tokens)
        self.draft, self.draft_tokens = draft, draft_tokens
        self.sampler = Sample(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p, penalties=penalties
        )
        self._model: GeneratingModel | None = None

    def use(self, model: GeneratingModel) -> None:
        """The model of the run that `draft` names. In a conversation it remembers what it has read."""
        self._model = PrefixCache(model, capacity=model.max_seq_len or UNLIMITED)

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
        assert self._model is not None, "use() comes first"
        drafter = DraftModel(
            self._model,
            prompts,
            self.sampler,
            draft_tokens=self.draft_tokens,
            end_ids=end_ids,
            max_new_tokens=max_new_tokens,
            seeds=seeds,
        )
        return decode_drafted(
            model,
            prompts,
            drafter,
            ExactCheck(self.sampler, seeds, model.device),
            end_ids=end_ids,
            max_new_tokens=max_new_tokens,
            penalties=self.sampler.penalties,
        )


class DraftModel:
    """A `Drafter` that lets a model write on. Its own window slides as that of `decode_tokens` does.

    A state that cannot go back to where the guesses were wrong, as a recurrent one, is copied before they are made, and
    reads again those that were right.
    """

    def __init__(
        self,
        model: GeneratingModel,
        prompts: Sequence[Sequence[int]],
        sampler: Sample,
        *,
        draft_tokens: int,
        end_ids: frozenset[int],
        max_new_tokens: int,
        seeds: Sequence[int],
    ) -> None:
        self._model, self._sampler, self._draft_tokens = model, sampler, draft_tokens
        self._end_ids, self._max_new_tokens = end_ids, max_new_tokens
        self._numbers = Uniforms([row_seeds(seed, 2)[1] for seed in seeds], model.device)
        self._held = sampler.penalties.begin(prompts, model.vocab_size, model.device, end_ids=end_ids)
        self._rows = [Guessed(row, len(prompt), model.max_seq_len) for row, prompt in enumerate(prompts)]
        self._state: State | None = None
        self._goes_back = True  # whether the state can

    def propose(self, texts: Sequence[Sequence[int]], room: Sequence[int]) -> Drafts:
        """Up to `draft_tokens` guesses of each row, none behind the end of a text."""
        self._hear(texts)
        contexts, wanted = [], []
        for row, text, most in zip(self._rows, texts, room, strict=True):
            context, fits = row.context(text, min(self._draft_tokens, most))
            contexts.append(context)
            wanted.append(fits)
        if not any(wanted):  # as before the last token: what is new is read where it is needed, if ever
            return Drafts([[] for _ in texts])
        logits = self._after(contexts)  # (B, V)
        mark = None if self._goes_back else self._known().clone()
        ahead = self._held and self._held.reorder(range(len(texts)))
        guesses: list[list[int]] = [[] for _ in texts]
        kept: list[Tensor] = []
        going = [place for place, most in enumerate(wanted) if most > 0]
        while going:
            logits = logits if ahead is None else ahead.adjust(logits)
            if self._sampler.temperature == 0:
                drawn = logits.argmax(dim=-1)
            else:
                kept.append(self._sampler.filter(logits))
                places = [row.written + len(kept) - 1 for row in self._rows]
                numbers = self._numbers.at([row.number for row in self._rows], places, 1)
                drawn = draw(kept[-1], numbers[:, 0])
            found = drawn.tolist()
            for place in going:
                guesses[place].append(found[place])
            if ahead is not None:
                ahead.add([found[place] if place in going else None for place in range(len(texts))])
            ended = {place for place in going if found[place] in self._end_ids or len(guesses[place]) == wanted[place]}
            going = [place for place in going if place not in ended]
            if going:
                logits = self._step([[found[place]] if place in going else [] for place in range(len(texts))])
        if mark is not None:
            self._state = mark
            for row, context in zip(self._rows, contexts, strict=True):
                row.read = context
        return Drafts(guesses, torch.stack(kept, dim=1) if kept else None)

    def keep(self, places: Sequence[int]) -> None:
        self._rows = [self._rows[place] for place in places]
        self._held = self._held and self._held.reorder(places)
        self._state = self._state and self._state.reorder(torch.tensor(list(places)))

    def _hear(self, texts: Sequence[Sequence[int]]) -> None:
        """Tell the penalties what was written since."""
        new = [text[row.heard :] for row, text in zip(self._rows, texts, strict=True)]
        for row, text in zip(self._rows, texts, strict=True):
            row.heard = len(text)
        if self._held is not None:
            for column in zip_longest(*new):
                self._held.add(column)

    def _after(self, contexts: Sequence[list[int]]) -> Tensor:
        """Read what is new of the contexts -> logits of what comes next, (B, V) in float32."""
        same = [row.shared(context) for row, context in zip(self._rows, contexts, strict=True)]
        if self._state is not None and min(same) > 0 and self._back_to(same):
            return self._step([context[length:] for context, length in zip(contexts, same, strict=True)])
        self._state = None  # its memory is free for the next one
        out = prefill(self._model, contexts, self._max_new_tokens)
        self._state = out.state
        for row, context in zip(self._rows, contexts, strict=True):
            row.read = list(context)
        return out.logits[:, -1].float()

    def _back_to(self, lengths: Sequence[int]) -> bool:
        """Forget what each row has read after its first `lengths` ids, if the state can."""
        if any(length < len(row.read) for row, length in zip(self._rows, lengths, strict=True)):
            try:
                self._state = self._known().truncate(torch.tensor(lengths))
            except ValueError:  # a recurrent one
                self._goes_back = False
                return False
            for row, length in zip(self._rows, lengths, strict=True):
                row.read = row.read[:length]
        return True

    def _step(self, given: Sequence[list[int]]) -> Tensor:
        out = read_rows(self._model, given, self._known(), last_only=True)
        self._state = out.state
        for row, ids in zip(self._rows, given, strict=True):
            row.read += ids
        return out.logits[:, -1].float()

    def _known(self) -> State:
        assert self._state is not None, "something has been read"
        return self._state


class Guessed:
    """One row of a `DraftModel`.

    number: in the whole batch. read: the ids that the state holds of it, guesses included. heard: how much of its text
    the penalties know.
    """

    def __init__(self, number: int, prompt: int, window: int | None) -> None:
        self.number, self.heard = number, prompt
        self.read: list[int] = []
        self._prompt, self._window = prompt, window
        self._start = prompt - kept_tokens(prompt, window)

    @property
    def written(self) -> int:
        """Tokens of the text that are no prompt."""
        return self.heard - self._prompt

    def context(self, text: Sequence[int], wanted: int) -> tuple[list[int], int]:
        """What the model sees of the text, and how many of the `wanted` guesses its window has room for."""
        if self._window is None:
            return list(text), wanted
        seen = kept_tokens(len(text) - self._start, self._window)
        self._start = len(text) - seen
        return list(text[self._start :]), min(wanted, self._window + 1 - seen)

    def shared(self, context: Sequence[int]) -> int:
        """How many ids of the context have been read, without the last, which is read for what comes next."""
        most = min(len(self.read), len(context) - 1)
        return next((place for place in range(most) if self.read[place] != context[place]), most)
