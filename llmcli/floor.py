"""The floor beside every model: what a method without a network gives on the same data.

Beside language models stand counted n-grams. Beside classifiers stands a linear support vector machine over TF-IDF
weights (Joachims 1998), untuned, as scikit-learn has both: of words and pairs of words, or of one to three characters
where most letters belong to a script without spaces. Beside answers in texts stand the words most like the question
(`llmcli.span_floor`), beside tags the most frequent one of each word (`llmcli.tag_floor`). Floors are kept with the
prepared data.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, cast

import numpy as np

from llmcli import files, ui
from llmcli.data.prepare import Prepared
from llmcli.data.records import QuestionAnswer, Record, TaggedTokens
from llmcli.errors import InputError, require
from llmcli.models import ngram
from llmcli.span_floor import SpanFloor
from llmcli.tag_floor import TagFloor
from llmcli.text.segment.base import UNSPACED

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
_AT_ONCE = 2_000  # examples that are scored together
_LIBRARIES = (
    "sklearn.feature_extraction.text", "sklearn.svm", "sklearn.multiclass", "sklearn.metrics", "scipy.sparse"
)  # fmt: skip


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
    """Accuracy and macro F1; of several labels at once a machine for each, and accuracy of all of them together."""
    vectors, svm, multiclass, metrics, sparse = map(import_module, _LIBRARIES)
    examples, scored = prepared.examples("train"), prepared.examples(split)
    share = min(1.0, MOST_CHARACTERS / max(1, prepared.count("characters", "train")))
    train = [examples[number] for number in _evenly(len(examples), max(2, int(share * len(examples))))]
    left_out = set(without)
    tested = [scored[number] for number in _evenly(len(scored), MOST_SCORED) if number not in left_out]
    several = any(len(record.names()) != 1 for record in [*train, *tested])
    labels, true = (_labels(records, prepared.names, several) for records in (train, tested))
    texts = [text for record in train for text in _texts(record)]
    if not any(map(str.strip, texts)) or len(np.unique(labels, axis=0)) < 2:
        return {}  # nothing to tell apart, or nothing to tell it by
    if _unspaced(texts[:_AT_ONCE]):
        weigh = vectors.TfidfVectorizer(analyzer="char", ngram_range=(1, 3))
    else:
        weigh = vectors.TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2))
    weigh.fit(texts)

    def features(records: Sequence[Record]) -> Any:
        """(N, terms); the terms of a pair's second text stand beside those of its first."""
        columns = zip(*map(_texts, records), strict=True)
        return sparse.hstack([weigh.transform(column) for column in columns], format="csr")

    machine = svm.LinearSVC(random_state=0)
    machine = multiclass.OneVsRestClassifier(machine) if several else machine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a label that all examples have, of machines that could go on
        machine.fit(features(train), labels)
    starts = range(0, len(tested), _AT_ONCE)
    predicted = np.concatenate([machine.predict(features(tested[start : start + _AT_ONCE])) for start in starts])
    right = (predicted == true).all(axis=1) if several else predicted == true
    f1 = metrics.f1_score(true, predicted, labels=range(len(prepared.names)), average="macro", zero_division=0)
    return {"accuracy": float(right.mean()), "f1": float(f1)}


def _evenly(number: int, most: int) -> list[int]:
    """At most so many numbers, from 0 to number - 1."""
    return [int(each) for each in np.linspace(0, number - 1, min(most, number))]


def _texts(record: Record) -> list[str]:
    return [text[:LONGEST] for text in record.inputs()]


def _labels(records: Sequence[Record], names: Sequence[str], several: bool) -> Any:
    """The number of each record's label (N,), or which of all it has (N, C)."""
    numbers = {name: number for number, name in enumerate(names)}
    if not several:
        return np.array([numbers[record.names()[0]] for record in records])
    held = np.zeros((len(records), len(names)), np.int64)
    for row, record in zip(held, records, strict=True):
        row[[numbers[name] for name in record.names()]] = 1
    return held


def _unspaced(texts: Sequence[str]) -> bool:
    """Whether most letters belong to a script that puts no spaces between words."""
    letters = [each for text in texts for each in text if each.isalpha()]
    return 2 * len(re.findall(f"[{UNSPACED}]", "".join(letters))) > len(letters)
