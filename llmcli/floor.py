"""The floor beside every model: what a method without a network gives on the same data.

Beside language models stand counted n-grams. Beside classifiers stands a linear support vector machine over TF-IDF
weights (Joachims 1998; `model=tfidf`), untuned: of words and pairs of words, or of one to three characters where most
letters belong to a script without spaces. Beside answers in texts stand the words most like the question
(`llmcli.span_floor`), beside tags the most frequent one of each word (`llmcli.tag_floor`). Floors are kept with the
prepared data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from llmcli import files, ui
from llmcli.data.prepare import Prepared
from llmcli.data.records import QuestionAnswer, Record, TaggedTokens
from llmcli.errors import InputError, require
from llmcli.metrics.classification import MacroF1, label_counts
from llmcli.models import ngram
from llmcli.models.tfidf import Tfidf
from llmcli.span_floor import SpanFloor
from llmcli.tag_floor import TagFloor

Kind = Literal["ngrams", "linear", "words", "tags"]
ORDER = 5
NAMES: Mapping[str | None, str] = {
    "ngrams": f"{ORDER}-gram",
    "linear": "TF-IDF + linear SVM",
    "words": "bag of words",
    "tags": "most frequent tag of each word",
}
MOST_TOKENS = 5_000_000  # of each split: seconds of work and a few hundred MB
MOST_CHARACTERS = 5_000_000  # of the texts that the linear floor learns from, chosen evenly
MOST_SCORED = 100_000  # examples of the split that it is scored on, chosen evenly
LONGEST = 2_000  # characters that are read of each text


def floor_of(kind: Kind | None, prepared: Prepared, split: str, *, without: Sequence[int] = ()) -> dict[str, float]:
    """Its figures on a split, learned from the train split: the loss, or accuracy and f1; none for kind None.

    without: numbers of the examples that also stand in train, for what the floor is without them. Without scikit-learn
    the linear floor has no figures either, and a note says how to get it.
    """
    if kind is None:
        return {}
    path = prepared.path / "floors.json"
    known = files.read_json(path)
    name = f"{split} without leaks" if without else split
    if name not in known:
        if kind == "ngrams":
            known[name] = _ngrams(prepared, split)
        elif kind == "words":
            known[name] = _words(prepared, split, without)
        elif kind == "tags":
            known[name] = _tags(prepared, split, without)
        else:
            try:
                require("sklearn", extra="floor", purpose="the linear floor")
            except InputError as err:
                ui.note(f"{err} ({err.hint})")
                return {}
            known[name] = _linear(prepared, split, without)
        files.write_json(path, known)
    return cast(dict[str, float], known[name])


def _ngrams(prepared: Prepared, split: str) -> dict[str, float]:
    """Nats per token of the interpolated Kneser-Ney model."""
    train, scored = prepared.split("train"), prepared.split(split)
    loss = ngram.floor(
        train.read(0, min(len(train), MOST_TOKENS)),
        scored.read(0, min(len(scored), MOST_TOKENS)),
        prepared.tokenizer.vocab_size,
        order=ORDER,
    )
    return {"loss": loss}


def _words(prepared: Prepared, split: str, without: Sequence[int]) -> Mapping[str, float]:
    """Exact match and F1 of the words most like the question, and of the most frequent answer."""
    left_out = set(without)
    scored = [record for number, record in enumerate(prepared.examples(split)) if number not in left_out]
    floor = SpanFloor(cast(Iterable[QuestionAnswer], prepared.examples("train")))
    return floor.figures(cast(Sequence[QuestionAnswer], scored))


def _tags(prepared: Prepared, split: str, without: Sequence[int]) -> Mapping[str, float]:
    """Accuracy, and the figures of entities or of tags, of the most frequent tag of each word."""
    left_out = set(without)
    floor = TagFloor(cast(Iterable[TaggedTokens], prepared.examples("train")))
    scored = (record for number, record in enumerate(prepared.examples(split)) if number not in left_out)
    return floor.figures(cast(Iterable[TaggedTokens], scored))


def _linear(prepared: Prepared, split: str, without: Sequence[int]) -> dict[str, float]:
    """Accuracy and macro F1 of `model=tfidf` as it ships; of several labels, accuracy of all of them together."""
    examples, scored = prepared.examples("train"), prepared.examples(split)
    share = min(1.0, MOST_CHARACTERS / max(1, prepared.count("characters", "train")))
    train = [examples[number] for number in _evenly(len(examples), max(2, int(share * len(examples))))]
    left_out = set(without)
    tested = [scored[number] for number in _evenly(len(scored), MOST_SCORED) if number not in left_out]
    several = any(len(record.names()) != 1 for record in [*train, *tested])
    held, true = (_held(records, prepared.names) for records in (train, tested))  # (N, C)
    if not any(text.strip() for record in train for text in record.inputs()) or len(np.unique(held, axis=0)) < 2:
        return {}  # nothing to tell apart, or nothing to tell it by
    machine = Tfidf(units="auto", longest=None, weights="tfidf", min_texts=1, cost=1.0, max_characters=LONGEST)
    machine.fit([record.inputs() for record in train], held, several=several, scaled=False)
    logits = machine([record.inputs() for record in tested])
    predicted = logits > 0 if several else F.one_hot(logits.argmax(1), len(prepared.names)) > 0
    f1 = MacroF1(classes=len(prepared.names))
    f1.update({name: value.sum(0) for name, value in label_counts(predicted, torch.from_numpy(true)).items()})
    right = (predicted.numpy() == true).all(axis=1)
    return {"accuracy": float(right.mean()), "f1": cast(float, f1.compute())}


def _evenly(number: int, most: int) -> list[int]:
    """At most so many numbers, from 0 to number - 1."""
    return [int(each) for each in np.linspace(0, number - 1, min(most, number))]


def _held(records: Sequence[Record], names: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the labels each record has, (N, C)."""
    numbers = {name: number for number, name in enumerate(names)}
    held = np.zeros((len(records), len(names)), bool)
    for row, record in zip(held, records, strict=True):
        row[[numbers[name] for name in record.names()]] = True
    return held
