"""BERT (Devlin et al. 2019): an encoder that sees both sides of every token.

Decisions, the paper's or its released code's: learned absolute positions, a vector for each text of a pair, LayerNorm
on the embedding and after each branch (post-norm), biases everywhere, exact GELU, normal initialisation. Others:
- q, k and v are separate parameters, as in every attention here;
- which text a token belongs to is read off the separators before it, so that no batch has to carry it;
- the embedding may be narrower than the model, with a projection behind it, as in ELECTRA (Clark et al. 2020);
- no pooler: it served next-sentence prediction, which does not help (Liu et al. 2019); heads pool as they like.

Shapes: B batch, T time, E embedding width, D model width, H heads, K head size.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.errors import InputError
from llmcli.layers.attention import attend, visibility
from llmcli.models.base import EncoderOnly, Kind, check_rates, check_sizes

EPS = 1e-12  # of every norm, as released


class BERT(EncoderOnly):
    """ids (B, T) -> hidden (B, T, D).

    sep_id: ends a text; a token's type is how many stand before it, at most n_types - 1 (None: all are of type 0, as
    they are where only inputs_embeds are given). d_embed: None for d_model. d_ff: None for 4 * d_model. `dropout` acts
    on the embedding, the attention weights and each branch's output.
    """

    kind: ClassVar[Kind] = "attention"
    tie_embeddings: bool = True

    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        causal: bool,
        sep_id: int | None,
        n_types: int,
        d_embed: int | None,
        d_model: int,
        n_layers: int,
        n_heads: int,
        d_ff: int | None,
        dropout: float,
    ) -> None:
        super().__init__(causal=causal, name="bert")
        d_embed = d_model if d_embed is None else d_embed
        d_ff = 4 * d_model if d_ff is None else d_ff
        check_sizes(vocab_size=vocab_size, max_seq_len=max_seq_len, n_types=n_types, d_embed=d_embed, d_model=d_model)
        check_sizes(n_layers=n_layers, n_heads=n_heads, d_ff=d_ff)
        check_rates(dropout=dropout)
        if d_model % n_heads:
            raise InputError(f"d_model ({d_model}) must be divisible by n_heads ({n_heads})")
        self.vocab_size, self.d_model, self.n_types = vocab_size, d_model, n_types
        self.sep_id = -1 if sep_id is None else sep_id  # -1: never in a text
        self.longest = max_seq_len
        self.max_seq_len = max_seq_len
        self.input_embedding = nn.Embedding(vocab_size, d_embed)
        self.position_embedding = nn.Embedding(max_seq_len, d_embed)
        self.type_embedding = nn.Embedding(n_types, d_embed)
        self.embedding_norm = nn.LayerNorm(d_embed, eps=EPS)
        self.projection = nn.Linear(d_embed, d_model) if d_embed != d_model else None
        self.blocks = nn.ModuleList(
            Block(d_model=d_model, n_heads=n_heads, d_ff=d_ff, dropout=dropout) for _ in range(n_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal, biases zero. The std is the paper's 0.02 at its width of 768; narrower models have a larger one, or
        they would take long to tell one place from another.
        """
        std = 0.02 * (768 / self.d_model) ** 0.5
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def forward(
        self,
        ids: Tensor | None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        segment_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """As in Backbone; without `positions` each packed document starts at 0. inputs_embeds (B, T, E) lack positions
        and types.
        """
        return self._states(ids, mask, positions, segment_ids, inputs_embeds)[-1]

    def hidden_states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The embedding and each block's output, (B, T, D)."""
        return self._states(ids, mask, None, None, None)

    def smaller(self, share: float) -> BERT:
        """A new BERT on the very same embedding tables, of as many layers but `share` of the heads and of the width
        (one head at least): the generator of ELECTRA, to this one's discriminator.
        """
        block = cast(Block, self.blocks[0])
        n_heads = self.d_model // block.head_size
        kept = max(1, round(share * n_heads))
        made = BERT(
            vocab_size=self.vocab_size,
            max_seq_len=self.longest,
            causal=False,
            sep_id=self.sep_id,
            n_types=self.n_types,
            d_embed=self.input_embedding.embedding_dim,
            d_model=kept * block.head_size,
            n_layers=len(self.blocks),
            n_heads=kept,
            d_ff=block.up.out_features * kept // n_heads,
            dropout=self.dropout.p,
        )
        made.input_embedding, made.position_embedding = self.input_embedding, self.position_embedding
        made.type_embedding = self.type_embedding
        return made

    def types(self, ids: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """How many separators stand before each token of its document: ids (B, T) -> (B, T), below n_types."""
        ends = (ids == self.sep_id).long()
        before = ends.cumsum(1) - ends
        if segment_ids is not None:
            before = _from_its_start(before, segment_ids)
        return before.clamp(max=self.n_types - 1)

    def _states(
        self,
        ids: Tensor | None,
        mask: Tensor | None,
        positions: Tensor | None,
        segment_ids: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> list[Tensor]:
        if ids is None and inputs_embeds is None:
            raise ValueError("forward needs ids or inputs_embeds")
        x = self.input_embedding(ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        n_tokens = x.shape[1]
        if n_tokens > self.longest:
            raise InputError(
                f"{n_tokens} tokens are more than max_seq_len ({self.longest})",
                hint="shorten the input or raise model.max_seq_len",
            )
        if positions is None:
            positions = torch.arange(n_tokens, device=x.device)[None]  # (1, T)
            if segment_ids is not None:
                positions = _from_its_start(positions, segment_ids)  # (B, T)
        types = torch.zeros_like(positions) if ids is None else self.types(ids, segment_ids)  # (B or 1, T)
        x = self.dropout(self.embedding_norm(x + self.position_embedding(positions) + self.type_embedding(types)))
        states = [x if self.projection is None else self.projection(x)]  # (B, T, D)
        visible = visibility(n_tokens, False, mask, segment_ids)
        for block in self.blocks:
            states.append(block(states[-1], visible))
        return states


class Block(nn.Module):
    """norm(x + attention(x)), then norm(x + feed-forward(x))."""

    def __init__(self, *, d_model: int, n_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.head_size = d_model // n_heads
        self.q = nn.Linear(d_model, d_model)
        self.k = nn.Linear(d_model, d_model)
        self.v = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)
        self.attention_norm = nn.LayerNorm(d_model, eps=EPS)
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.feed_forward_norm = nn.LayerNorm(d_model, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """x (B, T, D) -> (B, T, D); visible (B, 1, T, T) as in `attend`."""
        q, k, v = (self._heads(project(x)) for project in (self.q, self.k, self.v))  # (B, H, T, K)
        dropout = self.dropout.p if self.training else 0.0
        y = attend(q, k, v, visible=visible, causal=False, dropout=dropout).transpose(1, 2).flatten(2)  # (B, T, D)
        x = self.attention_norm(x + self.dropout(self.out(y)))
        branch = self.dropout(self.down(F.gelu(self.up(x))))
        normed: Tensor = self.feed_forward_norm(x + branch)
        return normed

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_size).transpose(1, 2)


def _from_its_start(counts: Tensor, segment_ids: Tensor) -> Tensor:
    """counts (1 or B, T), which never fall along a row, less what each had where its document begins (B, T)."""
    first = F.pad(segment_ids[:, 1:] != segment_ids[:, :-1], (1, 0), value=True)
    return counts - (counts * first).cummax(dim=1).values
