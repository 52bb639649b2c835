"""Windows of text with some of their tokens hidden: what masked language models learn from (Devlin et al. 2019).

Which tokens of a window are hidden, and what stands in their place, follows from the seed and the window's own ids
alone. So the masks of a validation text are the same at every pass, whatever the size of the batches.

Shapes: B rows, T window length, N hidden tokens of a batch, U of one row.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from llmcli.data.windows import Batch
from llmcli.errors import InputError
from llmcli.losses import IGNORED
from llmcli.seeds import mix
from llmcli.text.segment.base import Segmenter
from llmcli.text.segment.chinese import ChineseWords
from llmcli.text.segment.english import EnglishWords
from llmcli.tokenizers.base import Tokenizer

Unit = Literal["token", "word", "jieba"]
Ids = NDArray[np.int64]


class Marking:
    """Windows of `llmcli.data.windows` as they are shown, and which of their tokens may be asked for.

    marks: a window's first and last token give way to <cls> and <sep>. Asked for are tokens that a window scores, but
    no special ones, <unk> among them, and no padding. Raises InputError for a tokenizer that lacks the marks.
    """

    def __init__(self, tokenizer: Tokenizer, *, marks: bool) -> None:
        if marks and (tokenizer.cls_id is None or tokenizer.sep_id is None):
            raise InputError("task.marks is on, but this tokenizer has no <cls> and <sep>", "task.marks=false")
        self.marks, self.cls_id, self.sep_id = marks, tokenizer.cls_id, tokenizer.sep_id
        self.special = special_ids(tokenizer)

    def __call__(self, batch: Batch) -> tuple[Ids, NDArray[np.bool_]]:
        """ids (B, T), and whether each may be asked for (B, T)."""
        ids = batch["ids"].numpy().copy()
        real = batch["mask"].numpy() if "mask" in batch else np.ones(ids.shape, bool)
        scored = batch["labels"].numpy() != IGNORED  # of the tokens one further on
        candidates = np.concatenate((scored[:, :1], scored[:, :-1]), 1) & real
        if self.marks:
            ids[:, 0] = self.cls_id
            ids[np.arange(len(ids)), real.sum(1) - 1] = self.sep_id
        return ids, candidates & ~self.special[ids]


class Masking:
    """Hides `rate` of the tokens of each window, to the nearest number and at least one.

    A hidden token is shown as <mask>, but in a share `random` of cases as any token, and in a share `kept` as itself,
    so that the model learns something of tokens that are not hidden. unit: what is hidden as a whole: single tokens,
    the tokens of a "word" by English rules (a character, in a script without spaces), or Chinese words as "jieba" cuts
    them (Cui et al. 2021). marks, and what is never hidden: as `Marking` has it.

    Raises InputError for shares that cannot be, and a tokenizer that lacks a special token.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, rate: float, random: float, kept: float, unit: Unit, marks: bool
    ) -> None:
        if not 0 < rate < 1:
            raise InputError(f"task.rate ({rate}) must be above 0 and below 1")
        if min(random, kept) < 0 or random + kept > 1:
            raise InputError(f"task.random ({random}) and task.kept ({kept}) must be shares that sum to 1 at most")
        if unit not in get_args(Unit):
            raise InputError(f"task.unit ({unit}) must be one of {', '.join(get_args(Unit))}")
        if tokenizer.mask_id is None:
            raise InputError("hiding tokens needs a tokenizer with a <mask> token, which this one lacks")
        self.rate, self.random, self.kept, self.mask_id = rate, random, kept, tokenizer.mask_id
        self.marking = Marking(tokenizer, marks=marks)
        self._segmenter: Segmenter | None = None
        if unit != "token" and not tokenizer.whole_words:
            jieba = unit == "jieba"
            self._segmenter = ChineseWords(hmm=True, user_words=()) if jieba else EnglishWords(contractions="whole")
        special = self.marking.special
        self._plain = np.flatnonzero(~special)
        # a special token stands between words
        texts = [" " if alone else text for text, alone in zip(texts_of(tokenizer), special, strict=True)]
        self._texts = np.array(texts, object)
        self._sizes = np.array(list(map(len, texts)), np.int64)
        self._blanks = np.array([len(text) - len(text.lstrip()) for text in texts], np.int64)

    def __call__(self, batch: Batch, seed: int) -> Batch:
        """Windows of `llmcli.data.windows` -> ids (B, T) with some hidden; places (N,) of those in the flattened ids,
        and targets (N,), what stood there; n_tokens is N, n_ids the tokens without padding; mask and index as they are.
        """
        ids, candidates = self.marking(batch)
        shown = ids.copy()
        places = []
        for row, (tokens, may) in enumerate(zip(ids, candidates, strict=True)):
            rng = np.random.default_rng(mix(seed, "masking", tokens.tobytes()))
            chosen = self._chosen(tokens, np.flatnonzero(may), rng)
            shown[row, chosen] = self._shown(tokens[chosen], rng)
            places.append(row * ids.shape[1] + chosen)
        hidden = np.concatenate(places)
        found: Batch = {
            "ids": torch.from_numpy(shown),
            "places": torch.from_numpy(hidden),
            "targets": torch.from_numpy(ids.ravel()[hidden]),
            "n_tokens": len(hidden),
            "n_ids": int(batch["mask"].sum()) if "mask" in batch else ids.size,
            "index": batch["index"],
        }
        return {**found, "mask": batch["mask"]} if "mask" in batch else found

    def _chosen(self, tokens: Ids, candidates: Ids, rng: np.random.Generator) -> Ids:
        """Places (U,) of a row to hide, in order: whole units in random order, as long as they fit."""
        if not len(candidates):
            return candidates
        wanted = max(1, round(self.rate * len(candidates)))
        if self._segmenter is None:
            return np.sort(rng.permutation(candidates)[:wanted])
        units = np.unique(self._units(tokens, self._segmenter)[candidates], return_inverse=True)[1]
        sizes = np.bincount(units)
        order = rng.permutation(len(sizes))
        taken = np.zeros(len(sizes), bool)
        left = wanted
        for unit in order:
            if sizes[unit] <= left:
                taken[unit] = True
                left -= sizes[unit]
                if not left:
                    break
        if left == wanted:  # every unit is longer than that
            taken[order[0]] = True
        return candidates[taken[units]]

    def _units(self, tokens: Ids, segmenter: Segmenter) -> Ids:
        """The number of the word that each token of a row belongs to, (T,): the word of its first character."""
        sizes, blanks = self._sizes[tokens], self._blanks[tokens]
        starts = np.array([start for start, _ in segmenter.spans("".join(self._texts[tokens]))], np.int64)
        units = np.searchsorted(starts, sizes.cumsum() - sizes + blanks, side="right")
        alone = sizes == blanks  # white space is of no word
        units[alone] = -np.flatnonzero(alone) - 1
        return units

    def _shown(self, tokens: Ids, rng: np.random.Generator) -> Ids:
        """What stands in the place of hidden tokens (U,)."""
        draw = rng.random(len(tokens))
        shown = np.where(draw < self.random + self.kept, tokens, self.mask_id)
        others = rng.choice(self._plain, len(tokens))
        return np.where(draw < self.random, others, shown)


def texts_of(tokenizer: Tokenizer) -> list[str]:
    """What each id reads as by itself, (V,)."""
    return [tokenizer.decode([index]) for index in range(tokenizer.vocab_size)]


def special_ids(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Which ids stand for no text, or for any (<unk>), (V,)."""
    special = np.array([not text for text in texts_of(tokenizer)])
    names = ("pad_id", "unk_id", "bos_id", "eos_id", "mask_id", "cls_id", "sep_id")
    special[[index for name in names if (index := getattr(tokenizer, name)) is not None]] = True
    return special
