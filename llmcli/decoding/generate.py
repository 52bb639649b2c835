"""Prompts in, texts out: the one function behind `llm generate` and the samples shown during training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from llmcli.decoding.base import GeneratingModel, Strategy
from llmcli.decoding.loop import kept_tokens
from llmcli.decoding.stream import TextStream
from llmcli.errors import InputError
from llmcli.tokenizers.base import Tokenizer

FinishReason = Literal["end", "stop", "length"]
_SHOWN = 10  # unknown characters named in an error


@dataclass(frozen=True, slots=True)
class Generation:
    """What one row gave.

    text: without the prompt, cut before the stop string. ids: all new ids, the end id or the token that
    completed a stop string last. logprobs: natural log of the model's own probability of each.
    prompt_dropped: tokens at the start of the prompt that the model never saw, because the prompt is longer
    than its window.
    """

    prompt: str | Sequence[int]
    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    prompt_dropped: int


def generate(
    model: GeneratingModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    *,
    strategy: Strategy,
    max_new_tokens: int,
    seed: int,
    num_samples: int = 1,
    stop: Sequence[str] = (),
    unknown: Literal["error", "replace"] = "error",
    on_text: Callable[[int, str], None] | None = None,
) -> list[Generation]:
    """Continue each prompt `num_samples` times; the samples of one prompt stand together in the result.

    All rows are one batch. A row ends at the tokenizer's eos_id, at a stop string, or after `max_new_tokens`.
    An empty prompt starts a document (eos_id, or bos_id where there is none). `on_text(row, text)` gets text
    as it becomes final. `unknown` says what to do where the vocabulary lacks a character or word of a prompt.

    Raises:
        InputError: no prompt, num_samples or max_new_tokens below 1, an empty stop string, or an unknown
            character under unknown="error".
    """
    if not prompts:
        raise InputError("there is no prompt")
    if num_samples < 1:
        raise InputError(f"num_samples ({num_samples}) must be at least 1")
    rows = [prompt for prompt in prompts for _ in range(num_samples)]
    encoded = [_encode(tokenizer, prompt, unknown) for prompt in prompts for _ in range(num_samples)]
    streams = [TextStream(tokenizer, stop) for _ in rows]
    texts: list[list[str]] = [[] for _ in rows]
    ids: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    reasons: list[FinishReason | None] = [None for _ in rows]
    end_ids = frozenset(() if tokenizer.eos_id is None else (tokenizer.eos_id,))

    def show(row: int, text: str) -> None:
        if text:
            texts[row].append(text)
            if on_text is not None:
                on_text(row, text)

    steps = strategy.decode(
        model,
        encoded,
        end_ids=end_ids,
        max_new_tokens=max_new_tokens,
        generator=torch.Generator().manual_seed(seed),
    )
    for emitted in steps:
        for row, (index, logprob) in enumerate(zip(emitted.ids, emitted.logprobs, strict=True)):
            if index is None or reasons[row] is not None:
                continue
            ids[row].append(index)
            logprobs[row].append(logprob)
            if index in end_ids:
                reasons[row] = "end"
                continue
            show(row, streams[row].push(index))
            if streams[row].stopped:
                reasons[row] = "stop"
        if None not in reasons:
            break
    for row, stream in enumerate(streams):
        show(row, stream.finish())
        if stream.stopped:  # the held back end of the text may complete a stop string
            reasons[row] = "stop"
    return [
        Generation(
            prompt=rows[row],
            text="".join(texts[row]),
            ids=ids[row],
            logprobs=logprobs[row],
            finish_reason=reasons[row] or "length",
            prompt_dropped=len(encoded[row]) - kept_tokens(len(encoded[row]), model.max_seq_len),
        )
        for row in range(len(rows))
    ]


def _encode(tokenizer: Tokenizer, prompt: str | Sequence[int], unknown: Literal["error", "replace"]) -> list[int]:
    if isinstance(prompt, str):
        if unknown == "error" and (missing := tokenizer.unknown(prompt)):
            named = ", ".join(f"{item!r} at {prompt.find(item)}" for item in missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise InputError(
                f"the prompt has what the vocabulary lacks: {named}{more}",
                hint="write the prompt without it, or use unknown=replace",
            )
        ids = tokenizer.encode(prompt)
    else:
        ids = list(prompt)
    if ids:
        return ids
    start = tokenizer.bos_id if tokenizer.eos_id is None else tokenizer.eos_id
    if start is None:
        raise InputError("the prompt is empty and the tokenizer has no id that starts a document")
    return [start]
