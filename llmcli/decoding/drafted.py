"""Several tokens for one step of the model: a cheap guess of what comes next, read and checked all at once.

A step that reads the last token and K guessed ones costs little more than one that reads the last alone, as long as
reading the weights is what takes the time; it says what the model thinks of each guess, and the first that it would not
have made itself is replaced (Stern et al. 2018; Leviathan et al. 2023; Chen et al. 2023).

Shapes: B rows, K guesses, T = K + 1 places, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llmcli.decoding.base import Emitted, GeneratingModel, StepOutput
from llmcli.decoding.loop import check_prompts, kept_tokens, prefill
from llmcli.decoding.penalties import Penalties, Rows
from llmcli.errors import LLMError
from llmcli.models.base import State


@dataclass(frozen=True, slots=True)
class Drafts:
    """What may come next in each row.

    ids: the guesses of each, in order, none where there are none. logits (B, K, V): of the distributions that they were
    drawn from, with -inf for what was cut; None where nothing was drawn.
    """

    ids: list[list[int]]
    logits: Tensor | None = None

    def column(self, place: int) -> list[int | None]:
        """The guess of each row for one place, None where it has none."""
        return [ids[place] if place < len(ids) else None for ids in self.ids]


# logits (B, T, V) float32 of each row from its next place on, which row each is, and how many tokens it has written ->
# ids (B, T): which one stands at each place, should the guesses before it be right
Check = Callable[[Tensor, Drafts, Sequence[int], Sequence[int]], Tensor]


class Drafter(Protocol):
    """Guesses for the rows that go on. What it guesses of a row follows from that row alone."""

    def propose(self, texts: Sequence[Sequence[int]], room: Sequence[int]) -> Drafts:
        """texts: each row's prompt and what was written after it; room: how many guesses it may have."""
        ...

    def keep(self, places: Sequence[int]) -> None:
        """The rows at these places go on, the others have ended."""
        ...


@torch.inference_mode()
def decode_drafted(
    model: GeneratingModel,
    prompts: Sequence[Sequence[int]],
    drafter: Drafter,
    check: Check,
    *,
    end_ids: frozenset[int],
    max_new_tokens: int,
    penalties: Penalties,
) -> Iterator[Emitted]:
    """Continue every prompt as `decode_tokens` does, with as many tokens a step as were guessed rightly, and one more.

    What a row's tokens are chosen from is the same as there, also past the model's window: no guess reaches over it.

    Raises as `decode_tokens`.
    """
    check_prompts(model, prompts, max_new_tokens)
    window = model.max_seq_len
    texts = [list(prompt) for prompt in prompts]
    starts = [len(prompt) - kept_tokens(len(prompt), window) for prompt in prompts]  # of what the model sees of each
    written = [0] * len(prompts)
    rows = list(range(len(prompts)))  # those in the batch
    held = penalties.begin(prompts, model.vocab_size, model.device, end_ids=end_ids)

    out = prefill(model, [texts[row][starts[row] :] for row in rows], max_new_tokens)
    drafts = Drafts([[] for _ in rows])
    read = [len(texts[row]) - starts[row] for row in rows]  # tokens that the state holds of each row
    while True:
        chosen = check(_adjusted(out, drafts, held), drafts, rows, [written[row] for row in rows])  # (B, T)
        new = _accepted(out, chosen, drafts, end_ids)
        for place, (row, found) in enumerate(zip(rows, new, strict=True)):
            texts[row] += [number for number, _ in found]
            written[row] += len(found)
            read[place] -= 1 + len(drafts.ids[place]) - len(found)  # what was guessed wrongly
        yield from _emitted(new, rows, len(prompts), held)
        going = [
            place for place, row in enumerate(rows) if written[row] < max_new_tokens and texts[row][-1] not in end_ids
        ]
        if not going:
            return
        state, wrong = out.state, any(len(new[place]) <= len(drafts.ids[place]) for place in going)
        if len(going) < len(rows):
            state = state.reorder(torch.tensor(going))
            held = held and held.reorder(going)
            drafter.keep(going)
            rows, read = [rows[place] for place in going], [read[place] for place in going]
        left = [max_new_tokens - written[row] for row in rows]
        if window is not None and any(len(texts[row]) - starts[row] > window for row in rows):
            # All but the last token, which is read with what is guessed: also in rows that need not be read anew, where
            # a step without guesses would not be due.
            for row in rows:
                starts[row] = len(texts[row]) - kept_tokens(len(texts[row]) - starts[row], window)
            contexts = [texts[row][starts[row] : -1] for row in rows]
            state = model.init_state(len(rows), min(window, max(map(len, contexts)) + 1 + max(left)))
            if any(contexts):
                state = read_rows(model, contexts, state, last_only=True).state
        elif wrong:
            state = state.truncate(torch.tensor(read))
        lengths = [len(texts[row]) - starts[row] for row in rows]
        seen = [left[place] if window is None else window - length for place, length in enumerate(lengths)]
        drafts = drafter.propose([texts[row] for row in rows], [min(a, b - 1) for a, b in zip(seen, left, strict=True)])
        given = [[texts[row][-1], *guesses] for row, guesses in zip(rows, drafts.ids, strict=True)]
        out = read_rows(model, given, state, last_only=not any(drafts.ids))
        read = [length + len(guesses) for length, guesses in zip(lengths, drafts.ids, strict=True)]


def read_rows(
    model: GeneratingModel, given: Sequence[Sequence[int]], state: State, *, last_only: bool = False
) -> StepOutput:
    """A step with these ids of each row, of which one may have none."""
    counts = [len(ids) for ids in given]
    longest = max(counts)
    ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in given], device=model.device)
    real = None if min(counts) == longest else torch.tensor(counts, device=model.device)
    return model.step(ids, state, real, last_only=last_only)


def _adjusted(out: StepOutput, drafts: Drafts, held: Rows | None) -> Tensor:
    """The logits of each place in float32 after the penalties for what stands before it, (B, T, V)."""
    logits = out.logits.float()
    if held is None:
        return logits
    ahead, found = held.reorder(range(len(logits))), []
    for place in range(logits.shape[1]):
        found.append(ahead.adjust(logits[:, place]))
        ahead.add(drafts.column(place))
    return torch.stack(found, dim=1)


def _accepted(
    out: StepOutput, chosen: Tensor, drafts: Drafts, end_ids: frozenset[int]
) -> list[list[tuple[int, float]]]:
    """Of each row the ids up to the first that was not guessed or ends the text, and their log-probabilities."""
    own = out.logits.float()
    chosen = chosen.clamp(max=own.shape[-1] - 1)  # where logits are not numbers, as of padding, neither is the choice
    logprobs = own.gather(2, chosen[..., None])[..., 0] - own.logsumexp(dim=-1)  # (B, T)
    wide = torch.float32 if chosen.device.type == "mps" else torch.float64  # as in `decode_tokens`
    ids, values = torch.stack((chosen.to(wide), logprobs.to(wide))).tolist()
    new = []
    for numbers, row_values, guesses in zip(ids, values, drafts.ids, strict=True):
        found: list[tuple[int, float]] = []
        for place in range(len(guesses) + 1):
            number, value = int(numbers[place]), row_values[place]
            if math.isnan(value):
                raise LLMError("the model's logits are not finite", hint="train with a lower learning rate")
            found.append((number, value))
            if number in end_ids or place == len(guesses) or number != guesses[place]:
                break
        new.append(found)
    return new


def _emitted(
    new: list[list[tuple[int, float]]], rows: Sequence[int], n_rows: int, held: Rows | None
) -> Iterator[Emitted]:
    """The new tokens of all rows, one of each at a time; the penalties hear of them."""
    for place in range(max(map(len, new))):
        ids: list[int | None] = [None] * n_rows
        logprobs = [0.0] * n_rows
        column: list[int | None] = []
        for row, found in zip(rows, new, strict=True):
            if place < len(found):
                ids[row], logprobs[row] = found[place]
            column.append(ids[row])
        if held is not None:
            held.add(column)
        yield Emitted(ids=ids, logprobs=logprobs, steps=int(place == 0))
