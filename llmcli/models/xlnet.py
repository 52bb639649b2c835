"""XLNet (Yang et al. 2019): an encoder that learns by predicting tokens in a random order, with Transformer-XL's
relative positions (Dai et al. 2019).

Two streams run through the same weights. The content stream h holds what is known of a token, itself included; it is
all that fine-tuning uses. The query stream g knows where it stands and what came earlier in the order, but not its own
token, so that it can predict it. With d = t - s the distance of a key s from its query t and z the query of either
stream, a score is

    (q(z) + u) · k(h_s)  +  (q(z) + v) · r(sinusoid(d))  +  (q(z) + w) · e(same text or not)

Decisions, the paper's or its released code's: no absolute positions and so no longest text, post-norm blocks with exact
GELU, LayerNorm, no biases in attention. Others:
- which text a token belongs to is read off the separators before it;
- e has a vector for "not the same" alone: what all keys of a query get leaves its weights as they are;
- the query stream is computed at the targets only, and the last block of training computes nothing else;
- no memory of earlier windows (Transformer-XL's recurrence): ours are shuffled.

Shapes: B batch, T time, M targets, Q queries (T or M), D model width, H heads, K head size.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.layers.attention import visibility
from llmcli.models.base import EncoderOnly, Kind, check_rates, check_sizes

EPS = 1e-12  # of every norm, as released


class XLNet(EncoderOnly):
    """ids (B, T) -> hidden (B, T, D): the content stream, in which every token sees every other.

    sep_id: ends a text; tokens with as many of them before them are of one text (None: all are). d_ff: None for
    4 * d_model. `dropout` acts on the embeddings, the sinusoids, the attention weights, inside the feed-forward and on
    what leaves each branch and the model.
    """

    kind: ClassVar[Kind] = "attention"
    max_seq_len: int | None = None
    tie_embeddings: bool = True
    head_bias: bool = True

    def __init__(
        self,
        *,
        vocab_size: int,
        causal: bool,
        sep_id: int | None,
        d_model: int,
        n_layers: int,
        n_heads: int,
        d_ff: int | None,
        dropout: float,
    ) -> None:
        super().__init__(causal=causal, name="xlnet")
        d_ff = 4 * d_model if d_ff is None else d_ff
        check_sizes(vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, n_heads=n_heads, d_ff=d_ff)
        check_rates(dropout=dropout)
        if d_model % n_heads:
            raise InputError(f"d_model ({d_model}) must be divisible by n_heads ({n_heads})")
        if d_model % 2:
            raise InputError(f"d_model ({d_model}) must be even: a sine and a cosine of each frequency")
        self.vocab_size, self.d_model, self.sep_id = vocab_size, d_model, sep_id
        self.input_embedding = nn.Embedding(vocab_size, d_model)
        self.query_embedding = nn.Parameter(torch.empty(d_model))  # of a token that is not known yet
        self.blocks = nn.ModuleList(
            Block(d_model=d_model, n_heads=n_heads, d_ff=d_ff, dropout=dropout) for _ in range(n_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal, biases of linear layers zero. The std is the paper's 0.02 at its width of 768; narrower models have a
        larger one, from which they learn sooner.
        """
        std = 0.02 * (768 / self.d_model) ** 0.5
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Block by block: `forward` and `two_streams` share the blocks, and the blocks share one compilation."""
        for block in self.blocks:
            block.compile(*args, **kwargs)

    def forward(
        self,
        ids: Tensor | None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """As in Backbone. Only distances count: `positions` changes nothing. inputs_embeds without ids are one text."""
        hidden = self._states(ids, mask, segment_ids, inputs_embeds)[-1]
        # as in `Block`: the query stream's own vector is part of the sum, and changes nothing
        return hidden + 0.0 * self.query_embedding if self.training else hidden

    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The embedding and each block's output, (B, T, D)."""
        return self._states(ids, mask, None, None)

    def two_streams(self, ids: Tensor, order: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids, order (B, T), targets (B, M) -> the query stream at the targets (B, M, D).

        order: 0 for tokens that are known from the beginning; they see each other. A token of a higher number sees
        those of lower ones, and in the content stream itself; tokens of one number do not see each other. targets:
        places of tokens to predict, of numbers above 0. In training one real token at least must be known from the
        beginning; else a query with nothing to see gets nothing from attention.
        """
        x = self.dropout(self.input_embedding(ids))  # (B, T, D)
        known = order[:, None, :] < order[:, :, None].clamp(min=1)  # (B, T, T)
        if mask is not None:
            known = known & mask[:, None, :]
        itself = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
        apart = self._apart(ids, mask)
        rows = targets[..., None].expand(-1, -1, ids.shape[1])  # (B, M, T)
        content = View(hides=~(known | itself)[:, None], apart=apart)
        hides = ~known.gather(1, rows)[:, None]  # (B, 1, M, T)
        query = View(
            hides=hides,
            blind=None if self.training else hides.all(-1, keepdim=True),
            apart=None if apart is None else apart[:, 0].gather(1, rows)[:, None],
            places=targets,
        )
        g = self.dropout(self.query_embedding.to(x.dtype).expand(*targets.shape, -1))  # (B, M, D)
        distances = self._distances(x)
        for block in self.blocks[:-1]:
            x, g = block(x, distances, content, g, query)
        _, g = self.blocks[-1](x, distances, None, g, query)
        dropped: Tensor = self.dropout(g)
        return dropped

    def _states(
        self, ids: Tensor | None, mask: Tensor | None, segment_ids: Tensor | None, inputs_embeds: Tensor | None
    ) -> list[Tensor]:
        if ids is None and inputs_embeds is None:
            raise ValueError("forward needs ids or inputs_embeds")
        x = self.input_embedding(ids) if inputs_embeds is None else inputs_embeds
        visible = visibility(x.shape[1], False, mask, segment_ids)
        content = View(
            hides=None if visible is None else ~visible,
            apart=None if ids is None else self._apart(ids, mask),
        )
        states = [self.dropout(x)]
        distances = self._distances(x)
        for block in self.blocks:
            states.append(block(states[-1], distances, content)[0])
        states[-1] = self.dropout(states[-1])
        return states

    def _apart(self, ids: Tensor, mask: Tensor | None) -> Tensor | None:
        """(B, 1, T, T): which tokens are of different texts; None where no real ones are, which saves the term.

        A GPU is not asked: waiting for its answer costs more than the term.
        """
        if self.sep_id is None:
            return None
        ends = ids == self.sep_id
        text = ends.cumsum(1) - ends.long()  # (B, T)
        if mask is not None:
            text = text * mask
        if not text.is_cuda and not bool(text.any()):
            return None
        return (text[:, :, None] != text[:, None, :])[:, None]

    def _distances(self, x: Tensor) -> Tensor:
        """Sinusoids (2T, D) of the distances T, T - 1, ..., 1 - T, as far as a key may stand before its query."""
        n_tokens, device = x.shape[1], x.device
        frequencies = 10_000.0 ** (-torch.arange(0, self.d_model, 2, device=device) / self.d_model)
        angles = torch.arange(n_tokens, -n_tokens, -1, device=device)[:, None] * frequencies
        dropped: Tensor = self.dropout(torch.cat([angles.sin(), angles.cos()], dim=-1).to(x.dtype))
        return dropped


class View(NamedTuple):
    """What the queries of a stream see. Bool (B, 1, Q, T): `hides`, keys that they do not see (None: they see all);
    `apart`, keys of another text (None: there is one). places (B, Q): where they stand (None: at 0, 1, ..., T - 1).
    blind (B, 1, Q, 1): queries that see nothing (None: there is none).
    """

    hides: Tensor | None
    apart: Tensor | None
    places: Tensor | None = None
    blind: Tensor | None = None


class Block(nn.Module):
    """norm(x + attention(x)), then norm(x + feed-forward(x)), for both streams."""

    def __init__(self, *, d_model: int, n_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.head_size = d_model // n_heads
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.k = nn.Linear(d_model, d_model, bias=False)
        self.v = nn.Linear(d_model, d_model, bias=False)
        self.r = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.content_bias = nn.Parameter(torch.empty(d_model))  # u
        self.position_bias = nn.Parameter(torch.empty(d_model))  # v
        self.text_bias = nn.Parameter(torch.empty(d_model))  # w
        self.apart = nn.Parameter(torch.empty(d_model))  # e
        self.attention_norm = nn.LayerNorm(d_model, eps=EPS)
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.feed_forward_norm = nn.LayerNorm(d_model, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, h: Tensor, distances: Tensor, content: View | None, g: Tensor | None = None, query: View | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """h (B, T, D), distances (2T, D), g (B, M, D) -> both streams one block further; one without a view stays."""
        k, v, r = self._heads(self.k(h)), self._heads(self.v(h)), self._heads(self.r(distances))
        if g is not None and query is not None:
            g = self._stream(g, k, v, r, query)
        return h if content is None else self._stream(h, k, v, r, content), g

    def _stream(self, z: Tensor, k: Tensor, v: Tensor, r: Tensor, view: View) -> Tensor:
        """z (B, Q, D), k and v (B, H, T, K), r (H, 2T, K) -> (B, Q, D)."""
        q = self.q(z)  # (B, Q, D)
        scale = self.head_size**-0.5
        of_distance = self._heads((q + self.position_bias) * scale) @ r.mT  # (B, H, Q, 2T)
        scores = self._heads((q + self.content_bias) * scale) @ k.mT + aligned(of_distance, view.places)  # (B, H, Q, T)
        if view.apart is not None:
            of_text = self._heads((q + self.text_bias) * self.apart * scale).sum(-1, keepdim=True)  # (B, H, Q, 1)
            scores = scores + of_text * view.apart
        elif self.training:  # several processes wait for the gradient of every parameter
            scores = scores + 0.0 * (self.text_bias.sum() + self.apart.sum())
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if view.hides is not None:
            scores = scores.masked_fill(view.hides, -torch.inf)
        shares = scores.softmax(-1)
        if view.blind is not None:
            shares = shares.masked_fill(view.blind, 0.0)  # of nothing a softmax is nan
        weights = self.dropout(shares.to(v.dtype))
        y = (weights @ v).transpose(1, 2).flatten(2)  # (B, Q, D)
        z = self.attention_norm(z + self.dropout(self.out(y)))
        branch = self.dropout(self.down(self.dropout(F.gelu(self.up(z)))))
        normed: Tensor = self.feed_forward_norm(z + branch)
        return normed

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], x.shape[-1] // self.head_size, self.head_size).transpose(-3, -2)  # (..., H, T, K)


def aligned(of_distance: Tensor, places: Tensor | None) -> Tensor:
    """Scores of the distances T, ..., 1 - T, (B, H, Q, 2T), as those of the keys 0, ..., T - 1: (B, H, Q, T).

    A query at place t finds key s at t - s, in column T - t + s. With all queries in order a row begins one column
    before the row above, so that the whole is a view of the same memory.
    """
    *rows, _, width = of_distance.shape
    n_tokens = width // 2
    if places is None:
        return of_distance.flatten(-2)[..., n_tokens:].view(*rows, n_tokens, width - 1)[..., :n_tokens]
    first = (n_tokens - places)[:, None, :, None]  # (B, 1, Q, 1)
    columns = first + torch.arange(n_tokens, device=places.device)
    return of_distance.gather(-1, columns.expand(-1, of_distance.shape[1], -1, -1))
