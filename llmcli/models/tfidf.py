"""A linear machine over counted terms (Joachims 1998): the floor of every classifier, and `model=tfidf`.

A term is a run of words or of characters. A text x is how often each term t stands in it, more where few of the N
training texts have t, in length 1; each class has a support vector machine of its own against all other classes:

    x_t = count(t, x) * (1 + ln((1 + N) / (1 + N_t))),    score(c, x) = w_c . x / |x| + b_c

Decisions: scikit-learn cuts and counts, liblinear learns (squared hinge loss). Scores of hinges are no logits, so all
are multiplied by one number (Platt 1999; one temperature as in Guo et al. 2017), chosen on examples that the machines
had not seen. Everything fitted is a buffer, the terms as UTF-8.

Shapes: N examples, C classes, V terms, P texts of an example.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from llmcli.errors import InputError, require
from llmcli.models.base import GrownBuffers, Kind, check_sizes
from llmcli.text.segment.base import UNSPACED

Units = Literal["auto", "words", "characters"]
Weights = Literal["tfidf", "counts"]
Texts = Sequence[Sequence[str]]  # (N, P)

FOLDS = 3  # each example is held out once, to find the scale
_LOOKED_AT = 2_000  # texts by which "auto" tells which script they are in
_AT_ONCE = 2_000  # texts that are scored together


class Tfidf(GrownBuffers):
    """Texts -> logits of classes. `fit` takes the place of training.

    units: what terms are runs of, 1 to `longest` of them; "auto" is characters where most letters belong to a script
    that puts no spaces between words, and longest None is 2 words or 3 characters. weights: "tfidf" as above, or plain
    "counts" (a bag of words). min_texts: in how many training texts a term must stand. cost: of an example on the wrong
    side of its margin, against wide margins (scikit-learn's C). max_characters: that are read of a text.

    Raises InputError for sizes and choices that cannot be, and where scikit-learn is missing.
    """

    kind: ClassVar[Kind] = "terms"
    causal = False
    max_seq_len: int | None = None

    def __init__(
        self,
        *,
        units: Units,
        longest: int | None,
        weights: Weights,
        min_texts: int,
        cost: float,
        max_characters: int,
    ) -> None:
        super().__init__()
        require("sklearn", extra="floor", purpose="model=tfidf")
        check_sizes(min_texts=min_texts, max_characters=max_characters, longest=1 if longest is None else longest)
        for name, given, known in (("units", units, Units), ("weights", weights, Weights)):
            if given not in get_args(known):
                raise InputError(f"{name} ({given}) must be one of {', '.join(get_args(known))}")
        if cost <= 0:
            raise InputError(f"cost ({cost}) must be above 0")
        self.units, self.longest, self.weights = units, longest, weights
        self.min_texts, self.cost, self.max_characters = min_texts, cost, max_characters
        self.register_buffer("spelled", torch.zeros(0, dtype=torch.uint8))  # the terms one after another
        self.register_buffer("ends", torch.zeros(0, dtype=torch.int64))  # (V,) where each ends
        self.register_buffer("idf", torch.zeros(0))  # (V,)
        self.register_buffer("weight", torch.zeros(0, 0))  # (C, P * V)
        self.register_buffer("bias", torch.zeros(0))  # (C,)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("by_characters", torch.zeros((), dtype=torch.bool))
        self._counter: Any = None  # scikit-learn's, made of the terms when it is first needed

    def fit(self, texts: Texts, held: NDArray[np.bool_], *, several: bool, scaled: bool = True) -> None:
        """Learn from the texts (N, P) of examples and from which classes each has, held (N, C).

        several: any number of classes may hold at once. scaled: find the scale too, which takes `FOLDS` times as long.
        Raises InputError where the texts have no terms.
        """
        self.count(texts)
        features = self._features(texts)
        self._keep(scale=self._best_scale(features, held, several) if scaled else 1.0)
        weight, bias = self._machines(features, held)
        self._keep(weight=weight, bias=bias)

    def count(self, texts: Texts) -> None:
        """Choose the terms by the texts (N, P), and how much each counts. Raises InputError where there are none."""
        flat = [text[: self.max_characters] for example in texts for text in example]
        self._keep(by_characters=self.units == "characters" or (self.units == "auto" and _unspaced(flat)))
        self._counter = self._new_counter(min_df=self.min_texts)
        try:
            counts = self._counter.fit_transform(flat)
        except ValueError as err:  # scikit-learn's own: nothing is left
            raise InputError(
                f"no term stands in {self.min_texts} of the {len(flat):,} training texts",
                "a lower model.min_texts" if self.min_texts > 1 else "",
            ) from err
        terms = [term.encode() for term in self._counter.get_feature_names_out()]
        having = np.bincount(counts.indices, minlength=len(terms))
        self._keep(
            spelled=np.frombuffer(b"".join(terms), np.uint8),
            ends=np.cumsum([len(term) for term in terms]),
            idf=np.log((1 + len(flat)) / (1 + having)) + 1,
        )

    def forward(self, texts: Texts) -> Tensor:
        """Texts (N, P) -> logits (N, C): above 0 a class is more probable than not, and the largest is the best."""
        if not len(self.get_buffer("ends")):
            raise InputError("this model has been fitted to nothing yet", "fit it first")
        weight, bias = (self.get_buffer(name).cpu().numpy() for name in ("weight", "bias"))
        starts = range(0, len(texts), _AT_ONCE)
        scores = [self._features(texts[start : start + _AT_ONCE]) @ weight.T + bias for start in starts]
        return torch.from_numpy(np.concatenate(scores)).to(self.get_buffer("bias").device) * self.get_buffer("scale")

    def _keep(self, **values: Any) -> None:
        """Buffers of new sizes, on the device and of the type of those of before."""
        for name, value in values.items():
            before = self.get_buffer(name)
            setattr(self, name, torch.tensor(value, dtype=before.dtype, device=before.device))

    # -- features ----------------------------------------------------------------------------------------------

    def _new_counter(self, **options: Any) -> Any:
        by_characters = bool(self.get_buffer("by_characters"))
        return import_module("sklearn.feature_extraction.text").CountVectorizer(
            analyzer="char" if by_characters else "word",
            token_pattern=None if by_characters else r"\w+|[^\w\s]",
            ngram_range=(1, self.longest or (3 if by_characters else 2)),
            **options,
        )

    def _terms(self) -> list[str]:
        spelled, ends = self.get_buffer("spelled").cpu().numpy().tobytes(), self.get_buffer("ends").tolist()
        return [spelled[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]

    def _features(self, texts: Texts) -> Any:
        """(N, P * V) sparse; the terms of a pair's second text stand beside those of its first."""
        if self._counter is None:
            self._counter = self._new_counter(vocabulary=self._terms())
        columns = zip(*texts, strict=True)
        parts = [self._weighed([text[: self.max_characters] for text in column]) for column in columns]
        return import_module("scipy.sparse").hstack(parts, format="csr", dtype=np.float32)

    def _weighed(self, texts: Sequence[str]) -> Any:
        counts = self._counter.transform(texts)
        if self.weights == "counts":
            return counts
        weighed = counts.multiply(self.get_buffer("idf").cpu().numpy()).tocsr()
        return import_module("sklearn.preprocessing").normalize(weighed, copy=False)

    # -- machines ----------------------------------------------------------------------------------------------

    def _machines(self, features: Any, held: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One for each class: weights (C, P * V) and biases (C,)."""
        found = [self._machine(features, each) for each in held.T]
        weights, biases = zip(*found, strict=True)
        return np.array(weights, np.float32), np.array(biases, np.float32)

    def _machine(self, features: Any, held: NDArray[np.bool_]) -> tuple[NDArray[Any], float]:
        if held.all() or not held.any():  # nothing to tell apart: a margin away from what is never so
            return np.zeros(features.shape[1]), 1.0 if held.all() else -1.0
        machine = import_module("sklearn.svm").LinearSVC(C=self.cost, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of machines that could go on
            machine.fit(features, held)
        return machine.coef_[0], float(machine.intercept_[0])

    def _best_scale(self, features: Any, held: NDArray[np.bool_], several: bool) -> float:
        """By which the scores of examples that were held out give them the least loss as logits."""
        fold = np.random.default_rng(0).permutation(len(held)) % FOLDS
        scores, true = [], []
        for number in range(FOLDS):
            out = fold == number
            if out.any() and not out.all():
                weight, bias = self._machines(features[~out], held[~out])
                scores.append(features[out] @ weight.T + bias)
                true.append(held[out])
        if not scores:  # one example alone
            return 1.0
        logits, labels = (torch.from_numpy(np.concatenate(each)).double() for each in (scores, true))

        def loss(log_scale: float) -> float:
            scaled = logits * float(np.exp(log_scale))
            each = F.binary_cross_entropy_with_logits if several else F.cross_entropy
            return float(each(scaled, labels))

        best = import_module("scipy.optimize").minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
        return float(np.exp(best.x))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._counter = None


def _unspaced(texts: Sequence[str]) -> bool:
    """Whether most letters belong to a script that puts no spaces between words."""
    letters = [each for text in texts[:_LOOKED_AT] for each in text if each.isalpha()]
    return 2 * len(re.findall(f"[{UNSPACED}]", "".join(letters))) > len(letters)
