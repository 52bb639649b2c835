"""Scaled dot-product attention: which keys a query may see, and the kernel that is fastest where it runs.

Shapes: B batch, T queries, S keys, H heads, G key-value heads (G divides H), K head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# On CPU, forward and backward, plain operations take 0.45 of the fused kernel's time at T = 64 (0.35 compiled), 1.1 at
# 256 (0.7 compiled), 1.25 at 512 and 3 at 1,024 (1.8 compiled).
LONGEST_PLAIN = 256
# Few queries over many keys: with a key-value head's queries as rows of one product the fused kernel takes a seventh of
# the time in bfloat16 that it takes with `enable_gqa` at 1 query (3 heads each, 512 keys, CPU), 0.7 at 4, 1.1 at 512.
FEW_QUERIES = 16


def visibility(
    n_tokens: int, causal: bool, mask: Tensor | None = None, segment_ids: Tensor | None = None
) -> Tensor | None:
    """Which key each query may see: bool (B, 1, T, T), or None where only `causal` limits it.

    mask (B, T): True is a real token; segment_ids (B, T): only keys of the query's own document. Every
    position sees itself, so that the softmax of padding has something to stand on; no real token sees
    padding.
    """
    if mask is None and segment_ids is None:
        return None
    device = (mask if mask is not None else segment_ids).device  # type: ignore[union-attr]
    visible = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=device)
    if causal:
        visible = visible.tril()
    visible = visible[None]  # (1, T, T)
    if mask is not None:
        visible = visible & mask[:, None, :]
    if segment_ids is not None:
        visible = visible & (segment_ids[:, :, None] == segment_ids[:, None, :])
    itself = torch.eye(n_tokens, dtype=torch.bool, device=device)
    return (visible | itself)[:, None]  # (B, 1, T, T)


def attend(q: Tensor, k: Tensor, v: Tensor, *, visible: Tensor | None, causal: bool, dropout: float = 0.0) -> Tensor:
    """q (B, H, T, K), k and v (B, G, S, K) -> (B, H, T, K).

    visible (B or 1, 1, T, S) bool, or None: all keys, with `causal` those up to the query's own position. dropout: of
    the weights that the keys get, 0 outside training.
    """
    few = q.shape[2] <= FEW_QUERIES and not q.requires_grad and not dropout
    if few and q.shape[1] != k.shape[1] and (visible is not None or not causal):
        return grouped_attention(q, k, v, visible)
    plain = q.device.type == "cpu" and q.requires_grad and k.shape[2] <= LONGEST_PLAIN
    return (plain_attention if plain else fused_attention)(q, k, v, visible, causal, dropout)


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool, dropout: float = 0.0
) -> Tensor:
    """torch's kernel: no (T, S) matrix in memory."""
    y: Tensor = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=visible,
        dropout_p=dropout,
        is_causal=causal and visible is None,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return y


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """The queries of all heads that share a key-value head are queries of that head: no key is read twice."""
    shared = q.shape[1] // k.shape[1]
    if visible is not None and q.shape[2] > 1:
        visible = visible.repeat(1, 1, shared, 1)  # (B, 1, shared * T, S)
    grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])  # (B, G, shared * T, K)
    # not a view: kernels of a GPU may give heads and queries in another order in memory
    return F.scaled_dot_product_attention(grouped, k, v, attn_mask=visible).reshape(q.shape)


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool, dropout: float = 0.0
) -> Tensor:
    """Two products around a float32 softmax, which the compiler fuses; memory O(T * S) per head."""
    if shared := q.shape[1] // k.shape[1] - 1:
        k, v = k.repeat_interleave(shared + 1, 1), v.repeat_interleave(shared + 1, 1)
    if visible is None and causal:
        visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    scores: Tensor = (q @ k.mT).float() * q.shape[-1] ** -0.5  # (B, H, T, S)
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    weights = scores.softmax(-1).to(v.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    y: Tensor = weights @ v
    return y
