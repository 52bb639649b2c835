"""Generation: how fast a prompt is read and tokens are written, for each batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from llmcli.bench import ceilings, flops
from llmcli.bench.measuring import Spread, Stopwatch, in_turns
from llmcli.decoding.base import GeneratingModel, Strategy
from llmcli.errors import InputError
from llmcli.tokenizers.base import RESERVED

Times = list[float]  # seconds from the beginning to each new token
Beside = Callable[[Tensor, int], Times]  # prompts (B, T) on the CPU, and how many tokens to write after each


def lengths(context: int | None, prompt: int | None, new: int | None) -> tuple[int, int]:
    """Tokens of the prompt and new ones: those given, else 128 and 64, or half of a shorter context each.

    Raises InputError where they do not fit the context, and for fewer than two new tokens, between which there is
    nothing to time.
    """
    half = 256 if context is None else max(1, context // 2)
    prompt, new = prompt or min(128, half), new or max(2, min(64, half))
    if prompt < 1 or new < 2:
        raise InputError(f"prompt_tokens ({prompt}) must be at least 1 and new_tokens ({new}) at least 2")
    if context is not None and prompt + new > context:
        raise InputError(
            f"prompt_tokens ({prompt}) and new_tokens ({new}) are more than the model's context ({context})",
            f"batch.seq_len={prompt + new}, or shorter ones",
        )
    return prompt, new


def measure(
    task: Any,
    strategy: Strategy,
    watch: Stopwatch,
    *,
    batch_sizes: Sequence[int],
    prompt: int,
    new: int,
    rounds: int,
    beside: Mapping[str, Beside],
) -> dict[str, Any]:
    """Figures of generation, as plain values; those of several rounds are median, min and max.

    task: a generating model on its device, with weights of the type that it computes in. beside: what to take turns
    with.
    """
    device = cast(GeneratingModel, task).device
    weights = flops.streamed_bytes(task)
    found = []
    for size in batch_sizes:
        generator = torch.Generator().manual_seed(size)
        ids = torch.randint(len(RESERVED), task.vocab_size, (size, prompt), generator=generator)
        sides: dict[str, Callable[[], Times]] = {
            "llm": partial(write, task, strategy, ids.tolist(), new, watch),
            **{name: partial(side, ids, new) for name, side in beside.items()},
            "memory": lambda: [ceilings.bandwidth(device, watch)],
        }
        in_turns(sides, 1)  # not counted: caches fill, what is compiled is compiled
        found.append(_figures(size, prompt, new, in_turns(sides, rounds), weights))
    return {
        "prompt_tokens": prompt,
        "new_tokens": new,
        "weights_dtype": str(dtype(task)).removeprefix("torch."),
        "weights_bytes": weights,
        "batches": found,
    }


def write(task: GeneratingModel, strategy: Strategy, prompts: list[list[int]], new: int, watch: Stopwatch) -> Times:
    """Continue the prompts by `new` tokens, which nothing ends before."""
    began = watch()
    steps = strategy.decode(task, prompts, end_ids=frozenset(), max_new_tokens=new, seeds=list(range(len(prompts))))
    times = [watch() - began for _ in steps]
    assert len(times) == new
    return times


def _figures(size: int, prompt: int, new: int, times: dict[str, list[Times]], weights: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"batch_size": size}
    memory = [each[0] for each in times["memory"]]
    for name in (each for each in times if each != "memory"):
        token = [(each[-1] - each[0]) / (new - 1) for each in times[name]]  # seconds
        figures[name] = {
            "prompt_tokens_per_second": Spread.of([size * prompt / each[0] for each in times[name]]).plain(),
            "decode_tokens_per_second": Spread.of([size / each for each in token]).plain(),
            "first_token_seconds": Spread.of([each[0] for each in times[name]]).plain(),
        }
        if name == "llm":
            shares = [weights / each / rate for each, rate in zip(token, memory, strict=True)]
            figures[name]["share_of_bandwidth"] = Spread.of(shares).plain()
            ours = token
        else:  # each round against its own neighbour: what both suffered falls out
            figures[name]["llm_is_faster_by"] = Spread.of([b / a for a, b in zip(ours, token, strict=True)]).plain()
    figures["memory_bytes_per_second"] = Spread.of(memory).plain()
    return figures


def dtype(task: torch.nn.Module) -> torch.dtype:
    """The type of the widest part of the weights."""
    return max(task.parameters(), key=lambda each: each.numel()).dtype
