"""The token-by-token loop that greedy decoding and sampling share.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from llmcli.decoding.base import Emitted, GeneratingModel, StepOutput
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError, LLMError

# logits (B, V) float32, which it only reads, and which row each is -> ids (B,) int64
Choose = Callable[[Tensor, Sequence[int]], Tensor]


def kept_tokens(length: int, window: int | None) -> int:
    """How many of a row's last tokens the model sees when the row must be read anew.

    A row that fits the window keeps everything. One that does not keeps three quarters of the window: the
    rest is room for new tokens, so that reading anew happens once per quarter window and a token costs the
    same however long the text.
    """
    if window is None or length <= window:
        return length
    return max(1, window * 3 // 4)


@torch.inference_mode()
def decode_tokens(
    model: GeneratingModel,
    prompts: Sequence[Sequence[int]],
    choose: Choose,
    *,
    end_ids: frozenset[int],
    max_new_tokens: int,
    penalties: Penalties,
) -> Iterator[Emitted]:
    """Continue every prompt by one token per step, until all rows have ended or `max_new_tokens` are out.

    The contexts of the rows, and when each slides past the model's window, depend on that row alone. Once a quarter of
    the rows have ended they leave the batch.

    Raises:
        InputError: max_new_tokens below 1, an empty prompt, or a prompt id outside the vocabulary.
        LLMError: the model's logits are not finite.
    """
    check_prompts(model, prompts, max_new_tokens)
    window = model.max_seq_len
    contexts = [list(prompt[len(prompt) - kept_tokens(len(prompt), window) :]) for prompt in prompts]
    ended = [False] * len(prompts)
    rows = list(range(len(prompts)))  # those in the batch
    # of a prompt all counts, also what is past the window
    held = penalties.begin(prompts, model.vocab_size, model.device, end_ids=end_ids)

    out = prefill(model, contexts, max_new_tokens)
    for step in range(max_new_tokens):
        logits, own = out.last()  # (B, V)
        chosen = choose(logits if held is None else held.adjust(logits), rows)  # (B,)
        logprobs = own.gather(1, chosen[:, None])[:, 0] - own.logsumexp(dim=-1)
        if chosen.device.type == "cpu":
            ids, values = chosen.tolist(), logprobs.tolist()
        else:
            # Both lists cross to the host in one transfer. float64 holds every id exactly; MPS lacks it, and
            # float32 holds them up to 16 million.
            wide = torch.float32 if chosen.device.type == "mps" else torch.float64
            numbers, values = torch.stack((chosen.to(wide), logprobs.to(wide))).tolist()
            ids = [int(number) for number in numbers]
        emitted: list[int | None] = [None] * len(prompts)
        all_values = [0.0] * len(prompts)
        for row, number, value in zip(rows, ids, values, strict=True):
            if math.isnan(value):
                raise LLMError("the model's logits are not finite", hint="train with a lower learning rate")
            contexts[row].append(number)
            if not ended[row]:
                emitted[row], all_values[row] = number, value
            ended[row] = ended[row] or number in end_ids
        if held is not None:
            held.add(ids)
        yield Emitted(ids=emitted, logprobs=all_values)
        going = [place for place, row in enumerate(rows) if not ended[row]]
        if not going or step + 1 == max_new_tokens:
            return
        state = out.state
        if 4 * len(going) <= 3 * len(rows):
            index = torch.tensor(going)
            state, chosen = state.reorder(index), chosen[index]
            held = held and held.reorder(going)
            rows = [rows[place] for place in going]
        if window is not None and any(len(contexts[row]) > window for row in rows):
            # Rows that have ended are read on with one token, only to keep the batch in shape.
            for row in rows:
                kept = 1 if ended[row] else kept_tokens(len(contexts[row]), window)
                contexts[row] = contexts[row][len(contexts[row]) - kept :]
            out = prefill(model, [contexts[row] for row in rows], max_new_tokens - step - 1)
        else:
            out = model.step(chosen[:, None], state, last_only=True)


def check_prompts(model: GeneratingModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raises InputError for max_new_tokens below 1, an empty prompt, or a prompt id outside the vocabulary."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens ({max_new_tokens}) must be at least 1")
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"prompt {row} is empty: a model needs at least one token to start from")
        for index in (min(prompt), max(prompt)):
            if not 0 <= index < model.vocab_size:
                raise InputError(f"prompt {row} holds id {index}, the model knows 0 to {model.vocab_size - 1}")


def prefill(model: GeneratingModel, contexts: Sequence[Sequence[int]], max_new_tokens: int) -> StepOutput:
    """Read every context from an empty state -> what the model gives at its last token."""
    lengths = [len(context) for context in contexts]
    longest = max(lengths)
    ids = torch.zeros(len(contexts), longest, dtype=torch.int64)
    for row, context in enumerate(contexts):
        ids[row, : len(context)] = torch.tensor(context)
    capacity = longest + max_new_tokens
    if model.max_seq_len is not None:
        capacity = min(capacity, model.max_seq_len)
    real = None if min(lengths) == longest else torch.tensor(lengths, device=model.device)
    return model.step(ids.to(model.device), model.init_state(len(contexts), capacity), lengths=real, last_only=True)
