"""Texts with <mask>s, filled by a model that looks both ways: what masked and permutation language models answer.

Shapes: B batch, T time, V vocabulary, N masks of a batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from llmcli.data.masking import special_ids, texts_of
from llmcli.errors import InputError
from llmcli.tasks.rows import padded
from llmcli.tokenizers.base import Tokenizer

_MASK = re.compile(r"<mask>|\[MASK\]")


def gap(prompt: str) -> str:
    """Something to ask for: the prompt without its longest word."""
    longest = max(prompt.split(), key=len, default="")
    return prompt.replace(longest, "<mask>", 1) if longest else "<mask>"


def fill(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    top: int,
    marks: bool,
    limit: int | None,
    device: torch.device,
    logits: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> list[dict[str, Any]]:
    """Each text with its <mask>s (or [MASK]s) filled, and for each of them the `top` most probable tokens.

    marks: rows begin with <cls> and end with <sep>. limit: ids of the longest row. logits: ids (B, T), mask (B, T) and
    which of them are masks (B, T) -> logits (N, V), row by row. Raises InputError for a text with no mask, and for one
    that is longer than the limit.
    """
    assert tokenizer.mask_id is not None
    special = torch.from_numpy(special_ids(tokenizer)).to(device)
    # a sub-word has the space before it, so that before a mask belongs to what is to be found
    spaced = any(len(piece) > 1 and piece[0] == " " for piece in texts_of(tokenizer))
    rows = [row_of(text, tokenizer, spaced=spaced, marks=marks, limit=limit) for text in texts]
    found: list[dict[str, Any]] = [{}] * len(rows)
    for chosen, ids, mask in padded(rows, pad_id=tokenizer.pad_id or 0, device=device):
        masked = ids.eq(tokenizer.mask_id)
        shares = logits(ids, mask, masked).masked_fill(special, -torch.inf).softmax(1)  # (N, V)
        best = shares.topk(min(top, int((~special).sum())))
        counts = masked.sum(1).tolist()
        each = (best.indices.split_with_sizes(counts), best.values.split_with_sizes(counts))
        for row, indices, values in zip(chosen, *each, strict=True):
            found[row] = _filled(texts[row], rows[row], indices.tolist(), values.tolist(), tokenizer)
    return found


def row_of(text: str, tokenizer: Tokenizer, *, spaced: bool, marks: bool, limit: int | None) -> list[int]:
    """The ids of a text as in training; never empty."""
    *before, last = _MASK.split(text)
    if text.strip() and not before:
        raise InputError(f"nothing is left out of {text[:40]!r}", "write <mask> where a token is to be found")
    assert tokenizer.mask_id is not None
    row: list[int] = []
    for part in before:
        row += [*tokenizer.encode(part.removesuffix(" ") if spaced else part), tokenizer.mask_id]
    return framed(text, [*row, *tokenizer.encode(last)], tokenizer, marks=marks, limit=limit)


def framed(text: str, row: list[int], tokenizer: Tokenizer, *, marks: bool, limit: int | None) -> list[int]:
    """The ids of a text between the marks of training; never empty. Raises InputError for one beyond the limit."""
    if marks:
        assert tokenizer.cls_id is not None and tokenizer.sep_id is not None
        row = [tokenizer.cls_id, *row, tokenizer.sep_id]
    if limit is not None and len(row) > limit:
        raise InputError(f"{text[:40]!r} has {len(row)} ids and the model reads {limit}", "shorten it")
    return row or [tokenizer.pad_id or 0]


def _filled(
    text: str, row: list[int], indices: list[list[int]], shares: list[list[float]], tokenizer: Tokenizer
) -> dict[str, Any]:
    """indices, shares: of the best tokens of each mask, the most probable first."""
    firsts = iter([best[0] for best in indices])
    tokens = [
        {"mask": number, "token": tokenizer.token(index), "probability": share}
        for number, pairs in enumerate(zip(indices, shares, strict=True), start=1)
        for index, share in zip(*pairs, strict=True)
    ]
    filled = tokenizer.decode([next(firsts) if index == tokenizer.mask_id else index for index in row])
    return {"text": text, "filled": filled, "tokens": tokens}
