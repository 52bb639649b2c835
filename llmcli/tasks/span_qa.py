"""Answers that stand in a text: where one starts and ends, or that there is none (Devlin et al. 2019).

Shapes: B examples, R rows (windows of their texts), T time, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.example_batches import collate
from llmcli.data.records import QuestionAnswer, Record
from llmcli.layers.spans import SpanHead, best_spans, span_loss
from llmcli.metrics.base import Metric
from llmcli.metrics.spans import SPAN_METRICS, by_character, match
from llmcli.metrics.text import Loss
from llmcli.models.base import Backbone, check_sizes
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.rows import by_length, shorter
from llmcli.tasks.span_windows import SpanEncoder, Window
from llmcli.tokenizers.base import Tokenizer

CANDIDATES = 16  # spans of a window that are looked at for each answer that is asked for: most of them overlap


class Candidate(NamedTuple):
    """An answer in characters of its text, how much more it is worth than none (nats), and its probability."""

    score: float
    start: int
    end: int
    probability: float


class SpanQA(Task):
    """Learns P(start) and P(end) over the ids of a text, and over <cls> for "no answer", from `QuestionAnswer` records.

    stride: ids that each window of a text that is too long moves on; None: only its beginning is read. seq_len: of a
    window, when answers are predicted. max_answer: ids of the longest answer that is looked for. no_answer_threshold:
    an answer must be worth so much more than none, in nats; None: every question gets an answer.

    A window's spans are compared with "none" in the same window, and so with those of other windows (Devlin et al.
    compare logits as they are, which a softmax leaves free to move).
    """

    takes = ("QuestionAnswer",)
    kinds = ("attention", "recurrent")
    needs_causal = False
    learns_from = "examples"
    monitor = "val_f1"
    floor = "words"
    asks: ClassVar = (("question", "context"),)

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        seq_len: int,
        stride: int | None,
        max_answer: int,
        no_answer_threshold: float | None,
        dropout: float,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        check_sizes(**{"task.max_answer": max_answer, "task.stride": 1 if stride is None else stride})
        self.model = model
        self.head = SpanHead(d_model=model.d_model, dropout=dropout)
        self.stride, self.max_answer = stride, max_answer
        self.threshold = -torch.inf if no_answer_threshold is None else no_answer_threshold
        self.max_seq_len = model.max_seq_len
        self.longest = shorter(seq_len, model.max_seq_len)

    @property
    def width(self) -> int:
        return self.model.d_model

    @property
    def loss_unit(self) -> str:
        return "nats/window"

    def encoder(self, tokenizer: Tokenizer) -> SpanEncoder:
        return SpanEncoder(tokenizer=tokenizer, stride=self.stride)

    # -- loss --------------------------------------------------------------------------------------------------

    def logits(self, batch: Batch) -> Tensor:
        """ids, inside, mask (R, T) -> start and end (R, T, 2)."""
        hidden = self.model(batch["ids"], mask=batch.get("mask"))
        return cast(Tensor, self.head(hidden, batch["inside"].bool()))

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        logits = self.logits(batch)
        loss = span_loss(logits, batch["places"])  # (R,)
        if stage == "train":
            return StepResult(loss=loss.sum(), n=batch["n_tokens"], tokens=batch["n_ids"])
        example, count = batch["example"], len(batch["numbers"])
        of_examples = loss.new_zeros(count).index_add(0, example, loss)  # (B,)
        windows = torch.bincount(example, minlength=count)
        numbers = example.tolist()
        found = self._candidates(logits, batch["window"], numbers, count, top=1)
        spans = [self._answer(each) for each in found]
        records = {number: window.record for number, window in zip(numbers, batch["window"], strict=True)}
        scores = torch.tensor([_score(records[row], span) for row, span in enumerate(spans)], device=loss.device)
        return StepResult.of_examples(
            {"loss": of_examples, "n": windows, **_sums(scores)},
            n=batch["n_tokens"],
            tokens=batch["n_ids"],
            outputs={"spans": torch.tensor(spans, device=loss.device)},  # (B, 2)
        )

    def metrics(self) -> Sequence[Metric]:
        return Loss(), *(kind() for kind in SPAN_METRICS)

    # -- answers -----------------------------------------------------------------------------------------------

    def _candidates(
        self, logits: Tensor, windows: Sequence[Window], example: Sequence[int], count: int, *, top: int
    ) -> list[list[Candidate]]:
        """For each example the spans of all its windows, best first."""
        spans = best_spans(logits, longest=self.max_answer, top=top if top == 1 else top * CANDIDATES)
        shares = logits.log_softmax(1)  # (R, T, 2)
        chances = (shares[..., 0].gather(1, spans.starts) + shares[..., 1].gather(1, spans.ends)).exp()  # (R, K)
        found: list[list[Candidate]] = [[] for _ in range(count)]
        columns = (each.tolist() for each in (*spans, chances))
        for place, window, *row in zip(example, windows, *columns, strict=True):
            for score, first, last, chance in zip(*row, strict=True):
                if score > -torch.inf:
                    start, end = window.characters(first, last)
                    found[place].append(Candidate(score, start, end, chance))
        return [sorted(each, reverse=True) for each in found]

    def _answer(self, found: Sequence[Candidate]) -> tuple[int, int]:
        """The characters of the best answer; -1, -1 for none."""
        if not found or found[0].score <= self.threshold:
            return -1, -1
        return found[0].start, found[0].end

    def outcomes(self, records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]:
        """`text` is the context; `true` holds all right answers, `predicted` is None for no answer."""
        columns = (result.outputs["spans"], *(result.each[name] for name in ("exact", "overlap", "loss")))
        rows = zip(records, *(column.tolist() for column in columns), strict=True)
        return [_outcome(cast(QuestionAnswer, record), *row) for record, *row in rows]

    # -- prediction --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, texts: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, *, top: int) -> list[dict[str, Any]]:
        """For each question its answer in the context and the `top` best answers, which do not overlap."""
        records = [QuestionAnswer(each["question"], each["context"]) for each in texts]
        ids = tokenizer.encode_batch([text for record in records for text in record.texts()])
        encode = self.encoder(tokenizer)
        rows, example = [], []
        for number, record in enumerate(records):
            pair = [np.array(each, np.int64) for each in ids[2 * number : 2 * number + 2]]
            windows = encode.rows(record, pair, self.longest)
            rows += windows
            example += [number] * len(windows)
        found: list[list[Candidate]] = [[] for _ in records]
        none = [1.0] * len(records)  # the probability of no answer, in the window where it is least
        for chosen in by_length([len(row["ids"]) for row in rows]):
            batch = collate([rows[row] for row in chosen], encode.pad)
            given = ("ids", "inside", "mask") if "mask" in batch else ("ids", "inside")
            logits = self.logits({name: batch[name].to(self.device) for name in given})
            of = [example[row] for row in chosen]
            for number, some in enumerate(self._candidates(logits, batch["window"], of, len(records), top=top)):
                found[number] += some
            nothing = logits.log_softmax(1)[:, 0].sum(1).exp().tolist()
            for number, share in zip(of, nothing, strict=True):
                none[number] = min(none[number], share)
        return [self._said(*each, top) for each in zip(records, found, none, strict=True)]

    def _said(self, record: QuestionAnswer, found: list[Candidate], none: float, top: int) -> dict[str, Any]:
        found.sort(reverse=True)
        start, end = self._answer(found)
        apart: list[Candidate] = []
        for each in found:
            if all(each.end <= other.start or other.end <= each.start for other in apart):
                apart.append(each)
        listed: list[tuple[float, dict[str, Any]]] = [
            (each.score, _entry(record.context[each.start : each.end], each.start, each.end, each.probability))
            for each in apart
        ]
        if self.threshold > -torch.inf:
            listed.append((self.threshold, _entry(None, None, None, none)))
        listed.sort(key=lambda pair: -pair[0])
        answer = None if start < 0 else record.context[start:end]
        return {"question": record.question, "answer": answer, "answers": [entry for _, entry in listed[:top]]}


def _entry(answer: str | None, start: int | None, end: int | None, probability: float) -> dict[str, Any]:
    return {"answer": answer, "start": start, "end": end, "probability": probability}


def _score(record: QuestionAnswer, span: tuple[int, int]) -> tuple[float, float, float]:
    """Exact match and F1 of a predicted span, and whether the question has an answer."""
    said = "" if span[0] < 0 else record.context[span[0] : span[1]]
    return (*match(said, record.answers, characters=by_character(record.context)), float(bool(record.answers)))


def _sums(scores: Tensor) -> dict[str, Tensor]:
    """(B, 3) -> what each example adds to the sums of the metrics, (B,)."""
    exact, overlap, answerable = scores.unbind(1)
    return {
        "exact": exact,
        "overlap": overlap,
        "questions": torch.ones_like(exact),
        "answerable": answerable,
        "answerable_exact": exact * answerable,
        "answerable_overlap": overlap * answerable,
        "unanswerable": 1 - answerable,
        "unanswered": exact * (1 - answerable),
    }


def _outcome(record: QuestionAnswer, span: list[int], exact: float, f1: float, loss: float) -> dict[str, Any]:
    predicted = {(span[0], span[1])} if span[0] >= 0 else set()
    true = {(start, start + len(answer)) for answer, start in zip(record.answers, record.starts, strict=True)}
    kinds = {place: "true" for place in true} | {place: "both" if place in true else "predicted" for place in predicted}
    spans = [
        {"start": start, "end": end, "label": "answer", "kind": kind} for (start, end), kind in sorted(kinds.items())
    ]
    return {
        "question": record.question,
        "text": record.context,
        "true": list(record.answers),
        "predicted": record.context[span[0] : span[1]] if span[0] >= 0 else None,
        "right": bool(exact),
        "f1": f1,
        "loss": loss,
        "spans": spans,
    }
