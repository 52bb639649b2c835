"""Masked language modelling (Devlin et al. 2019): tokens are hidden, and predicted from what stands on both sides.

Shapes: B batch, T time, D model width, V vocabulary, N hidden tokens of a batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from llmcli.data.masking import Masking, Unit, special_ids, texts_of
from llmcli.errors import InputError
from llmcli.heads import MaskedHead
from llmcli.metrics.base import Metric
from llmcli.metrics.text import Accuracy, Loss, Perplexity
from llmcli.models.base import Backbone
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tokenizers.base import Tokenizer

AT_ONCE = 64  # texts of similar length that are predicted together
_MASK = re.compile(r"<mask>|\[MASK\]")


class MaskedLM(Task):
    """Learns P(hidden token | the others) from windows of running text, with any encoder that sees the words around.

    rate, random, kept, unit and marks say which tokens are hidden and how (`data.masking.Masking`). Only their hidden
    states go through the head. There is no prediction of the next sentence, which does not help (Liu et al. 2019).
    """

    takes = ("Text",)
    kinds = ("attention", "recurrent", "convolution")
    needs_causal = False

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        rate: float,
        random: float,
        kept: float,
        unit: Unit,
        marks: bool,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        if causal or model.causal:
            raise InputError("task=masked_lm predicts from both sides and needs task.causal=false")
        self.model = model
        self.head = MaskedHead(backbone=model)
        self.rate, self.random, self.kept, self.unit, self.marks = rate, random, kept, unit, marks
        self.max_seq_len = model.max_seq_len

    @property
    def width(self) -> int:
        return self.model.d_model

    def encoder(self, tokenizer: Tokenizer) -> Masking:
        return Masking(tokenizer, rate=self.rate, random=self.random, kept=self.kept, unit=self.unit, marks=self.marks)

    # -- loss --------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        hidden = self.model(batch["ids"], mask=batch.get("mask"))  # (B, T, D)
        hidden, targets = hidden.flatten(0, 1)[batch["places"]], batch["targets"]  # (N, D), (N,)
        n, tokens = batch["n_tokens"], batch["n_ids"]
        if stage == "train":
            return StepResult(loss=self.head(hidden, targets), n=n, tokens=tokens)
        loss, correct = self.head.loss_and_correct(hidden, targets)
        return StepResult(loss=loss, n=n, tokens=tokens, sums={"correct": correct})

    def metrics(self) -> Sequence[Metric]:
        return Loss(), Perplexity(), Accuracy()

    # -- prediction --------------------------------------------------------------------------------------------

    def example(self, prompt: str) -> str:
        """Something to ask `predict`: the prompt without its longest word."""
        longest = max(prompt.split(), key=len, default="")
        return prompt.replace(longest, "<mask>", 1) if longest else "<mask>"

    @torch.inference_mode()
    def predict(self, texts: Sequence[str], tokenizer: Tokenizer, *, top: int) -> list[dict[str, Any]]:
        """Each text with its <mask>s (or [MASK]s) filled, and for each of them the `top` most probable tokens.

        Raises InputError for a text with none, and for one that is longer than the model reads.
        """
        special = torch.from_numpy(special_ids(tokenizer)).to(self.device)
        # a sub-word has the space before it, so that before a mask belongs to what is to be found
        spaced = any(len(piece) > 1 and piece[0] == " " for piece in texts_of(tokenizer))
        rows = [self._row(text, tokenizer, spaced=spaced) for text in texts]
        found: list[dict[str, Any]] = [{}] * len(rows)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(order), AT_ONCE):
            chosen = order[start : start + AT_ONCE]
            parts = [torch.tensor(rows[row]) for row in chosen]
            ids = pad_sequence(parts, batch_first=True, padding_value=tokenizer.pad_id or 0).to(self.device)
            mask = torch.arange(ids.size(1)) < torch.tensor([len(part) for part in parts])[:, None]
            hidden = self.model(ids, mask=mask.to(self.device))  # (B, T, D)
            for row, tokens, states in zip(chosen, ids, hidden, strict=True):
                logits = self.head.logits(states[tokens == tokenizer.mask_id])  # (N, V)
                best = logits.masked_fill(special, -torch.inf).softmax(1).topk(min(top, int((~special).sum())))
                found[row] = _filled(texts[row], rows[row], best, tokenizer)
        return found

    def _row(self, text: str, tokenizer: Tokenizer, *, spaced: bool) -> list[int]:
        """The ids of a text as in training; never empty."""
        *before, last = _MASK.split(text)
        if text.strip() and not before:
            raise InputError(f"nothing is left out of {text[:40]!r}", "write <mask> where a token is to be found")
        assert tokenizer.mask_id is not None
        row: list[int] = []
        for part in before:
            row += [*tokenizer.encode(part.removesuffix(" ") if spaced else part), tokenizer.mask_id]
        row += tokenizer.encode(last)
        if self.marks:
            assert tokenizer.cls_id is not None and tokenizer.sep_id is not None
            row = [tokenizer.cls_id, *row, tokenizer.sep_id]
        if self.max_seq_len is not None and len(row) > self.max_seq_len:
            raise InputError(f"{text[:40]!r} has {len(row)} ids and the model reads {self.max_seq_len}", "shorten it")
        return row or [tokenizer.pad_id or 0]


def _filled(text: str, row: list[int], best: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    """best: topk's values and indices, (N, top) each."""
    firsts = iter(best.indices[:, 0].tolist())
    tokens = [
        {"mask": number, "token": tokenizer.token(index), "probability": share}
        for number, pairs in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True), start=1)
        for index, share in zip(*pairs, strict=True)
    ]
    filled = tokenizer.decode([next(firsts) if index == tokenizer.mask_id else index for index in row])
    return {"text": text, "filled": filled, "tokens": tokens}
