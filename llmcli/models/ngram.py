"""Interpolated Kneser-Ney n-gram models (Kneser & Ney 1995; Chen & Goodman 1998, section 4.1.6): the floor that a
trained network has to beat.

    p(w | h) = (a(h w) - D(a(h w))) / a(h .) + backoff(h) * p(w | h without its first token)

where a(.) counts occurrences for the longest n-grams and, below them, the distinct tokens seen in front of an
n-gram; backoff(h) is the mass that the discounts D set free after h; and below the unigrams every token has
probability 1 / V. A context that was never seen leaves the word to the shorter one.

The n-grams are the nodes of a tree, kept as one sorted array per order: a node's number is its place in the array,
its key is its parent's number * V + its token. That is exact, needs no hashing, and is built and read by sorting and
binary search alone.

It is no Backbone, having counts and no hidden states: a task gets the distribution itself. `fit` takes the place of
training; `init_state` and `step` work as in Backbone, except that `step` returns logits (B, T, V), the logarithms of
the probabilities.

Shapes: B batch, T time, V vocabulary, N order, Q queries, M nodes of one order.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmcli.errors import InputError
from llmcli.layers.window import WindowState
from llmcli.models.base import GrownBuffers, Kind, State, check_sizes

Ids = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]
Discounts = Literal["modified", "single"]

# Where a corpus is too small, or its vocabulary too densely used, to estimate them (as KenLM does).
FALLBACK = (0.5, 1.0, 1.5)


class NGram(GrownBuffers):
    """Counts ids and predicts the next from the last `order` - 1.

    `discounts`: "modified" has one for counts of 1, of 2 and of more (Chen & Goodman), "single" one for all
    (Kneser & Ney). The counts are buffers of the sizes that the corpus gave them, so a state_dict loads into a new
    model of the same order and vocabulary.
    """

    kind: ClassVar[Kind] = "counts"
    causal: bool = True
    max_seq_len: int | None = None

    def __init__(self, *, vocab_size: int, order: int, discounts: Discounts) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, order=order)
        self.vocab_size = vocab_size
        self.order = order
        self.discounts = discounts
        for n in range(1, order + 1):
            self.register_buffer(f"keys_{n}", torch.zeros(0, dtype=torch.int64))  # (M_n,) sorted
            self.register_buffer(f"discounted_{n}", torch.zeros(0, dtype=torch.float64))  # (M_n,)
            self.register_buffer(f"backoff_{n}", torch.zeros(0, dtype=torch.float64))  # (M_n-1,), by context

    def fit(self, ids: Ids) -> None:
        """Count the n-grams of ids (T,), one running text; forgets what was counted before.

        Raises:
            InputError: there are no ids, or one is outside the vocabulary.
        """
        if ids.size == 0:
            raise InputError("an n-gram model needs at least one token to count")
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise InputError(f"ids from {ids.min()} to {ids.max()} do not fit vocab_size ({self.vocab_size})")
        keys: list[npt.NDArray[np.int64]] = []
        counts: list[npt.NDArray[np.int64]] = []
        nodes = np.zeros(ids.size + 1, dtype=np.int64)  # of the (n-1)-gram before each place; the root's is 0
        for n in range(1, min(self.order, ids.size) + 1):
            above = nodes[:-1] * self.vocab_size + ids[n - 1 :]
            level, first, below, occurrences = np.unique(
                above, return_index=True, return_inverse=True, return_counts=True
            )
            if counts:  # the order below is not the longest: what counts there is how many tokens stand in front
                counts[-1] = np.bincount(nodes[1:][first], minlength=len(keys[-1]))
            keys.append(level)
            counts.append(occurrences)
            nodes = below
        for n in range(1, self.order + 1):
            if n > len(keys):
                tables = (np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))
            else:
                contexts = 1 if n == 1 else len(keys[n - 2])
                tables = (keys[n - 1], *self._discounted(keys[n - 1] // self.vocab_size, counts[n - 1], contexts))
            for name, table in zip(("keys", "discounted", "backoff"), tables, strict=True):
                buffer = self.get_buffer(f"{name}_{n}")
                setattr(self, f"{name}_{n}", torch.from_numpy(table).to(buffer))

    def log_prob(self, ids: Ids) -> Floats:
        """Natural logarithm of each token's probability after the ones before it: ids (T,) -> (T,)."""
        self._check_fitted()
        tokens = torch.from_numpy(ids.astype(np.int64)).to(self.get_buffer("keys_1").device)
        p = torch.full(tokens.shape, 1 / self.vocab_size, dtype=torch.float64, device=tokens.device)
        context = torch.zeros_like(tokens)  # the node of the n - 1 tokens before, -1 where never seen
        for n in range(1, self.order + 1):
            node = self._child(n, context, tokens)
            p = self._interpolated(n, context, node, p)
            context = torch.cat((node.new_tensor([-1]), node[:-1]))
        log_p: Floats = p.log().cpu().numpy()
        return log_p

    def next_distribution(self, context: Ids) -> Floats:
        """Probabilities (V,) of the token after `context` (any length)."""
        recent = torch.from_numpy(context.astype(np.int64))[max(0, context.size - self.order + 1) :]
        p: Floats = self._distributions(recent[None].to(self.get_buffer("keys_1").device))[0].cpu().numpy()
        return p

    def init_state(self, batch_size: int, capacity: int) -> WindowState:
        return WindowState.empty(batch_size=batch_size, capacity=capacity, device=self.get_buffer("keys_1").device)

    def step(self, ids: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, WindowState]:
        """As in Backbone, but -> logits (B, T, V) in float32, the logarithms of the probabilities."""
        assert isinstance(state, WindowState)
        windows = state.read(ids, max(1, self.order - 1))  # (B, T, N - 1)
        p = self._distributions(windows.flatten(0, 1)[:, : self.order - 1])
        logits = p.log().float().view(*ids.shape, self.vocab_size)
        return logits, state.advance(ids.shape[1] if lengths is None else lengths)

    def _discounted(
        self, context: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], n_contexts: int
    ) -> tuple[Floats, Floats]:
        """Each node's own share of its context's mass (M,), and the share each context leaves (n_contexts,)."""
        discount = np.array((0.0, *self._discounts(counts)))[np.minimum(counts, 3)]  # (M,)
        total = np.bincount(context, weights=counts, minlength=n_contexts)
        freed = np.bincount(context, weights=discount, minlength=n_contexts)
        # Only what opens the text has nothing in front of it; a context of such nodes alone leaves everything.
        seen = np.maximum(total, 1)
        return (counts - discount) / seen[context], np.where(total > 0, freed / seen, 1.0)

    def _discounts(self, counts: npt.NDArray[np.int64]) -> tuple[float, float, float]:
        """For counts of 1, 2 and more, from how many nodes have each count (Chen & Goodman 1998, equation 26)."""
        _, n1, n2, n3, n4, _ = np.bincount(np.minimum(counts, 5), minlength=6).tolist()
        if not (n1 and n2):
            return FALLBACK
        y = n1 / (n1 + 2 * n2)
        if self.discounts == "single":
            return y, y, y
        if not n3:
            return FALLBACK
        modified = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return modified if all(0 <= d <= i for i, d in enumerate(modified, start=1)) else FALLBACK

    def _child(self, n: int, context: Tensor, tokens: Tensor) -> Tensor:
        """The order-n node of each token (Q,) below each context (Q,), -1 where there is none."""
        keys = self.get_buffer(f"keys_{n}")
        if not len(keys):
            return torch.full_like(tokens, -1)
        wanted = context * self.vocab_size + tokens
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return place.where((keys[place] == wanted) & (context >= 0) & (tokens >= 0), -1)

    def _interpolated(self, n: int, context: Tensor, node: Tensor, p: Tensor) -> Tensor:
        """p (Q,) of order n - 1 -> order n."""
        backoff = self.get_buffer(f"backoff_{n}")
        if not len(backoff):
            return p
        own = self.get_buffer(f"discounted_{n}")[node.clamp(min=0)].where(node >= 0, 0.0)
        return (own + backoff[context.clamp(min=0)] * p).where(context >= 0, p)

    def _distributions(self, windows: Tensor) -> Tensor:
        """windows (Q, up to N - 1) of the latest ids, negative before the text -> probabilities (Q, V)."""
        self._check_fitted()
        n_queries, width = windows.shape
        p = torch.full((n_queries, self.vocab_size), 1 / self.vocab_size, dtype=torch.float64, device=windows.device)
        for n in range(1, min(self.order, width + 1) + 1):
            keys, backoff = self.get_buffer(f"keys_{n}"), self.get_buffer(f"backoff_{n}")
            if not len(keys):
                break
            context = torch.zeros(n_queries, dtype=torch.int64, device=windows.device)
            for back in range(n - 1, 0, -1):
                context = self._child(n - back, context, windows[:, width - back])
            (rows,) = torch.nonzero(context >= 0, as_tuple=True)
            seen = context[rows]
            p[rows] *= backoff[seen, None]
            # Its children lie side by side: their keys begin with the context's number.
            first = torch.searchsorted(keys, seen * self.vocab_size)
            many = torch.searchsorted(keys, (seen + 1) * self.vocab_size) - first
            starts = first - (many.cumsum(0) - many)
            node = torch.arange(int(many.sum()), device=windows.device) + starts.repeat_interleave(many)
            p[rows.repeat_interleave(many), keys[node] % self.vocab_size] += self.get_buffer(f"discounted_{n}")[node]
        return p

    def _check_fitted(self) -> None:
        if not len(self.get_buffer("keys_1")):
            raise InputError("this n-gram model has counted nothing yet", hint="fit it first")


def floor(train_ids: Ids, val_ids: Ids, vocab_size: int, *, order: int = 5) -> float:
    """Nats per token of val_ids under the modified Kneser-Ney model of train_ids."""
    model = NGram(vocab_size=vocab_size, order=order, discounts="modified")
    model.fit(train_ids)
    return -float(model.log_prob(val_ids).mean())
