"""Words replaced by those with the nearest vectors (Wang and Yang 2015)."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import numpy as np

from llmcli.errors import InputError
from llmcli.text.augment.base import WordStep
from llmcli.text.augment.synonyms import in_case_of
from llmcli.vectors import VectorFile


class Neighbours(WordStep):
    """A word becomes one of its `nearest` neighbours by cosine, with probability `rate`.

    path: word vectors in word2vec's or GloVe's format, of which the first `most_words` are read. min_similarity: less
    similar words are no neighbours. Raises InputError for a file without vectors.
    """

    def __init__(self, *, rate: float, path: str, nearest: int, min_similarity: float, most_words: int) -> None:
        super().__init__(rate=rate)
        for name, value in {"nearest": nearest, "most_words": most_words}.items():
            if value < 1:
                raise InputError(f"augment.neighbours.{name} ({value}) must be at least 1")
        self.nearest, self.min_similarity = nearest, min_similarity
        pairs = list(islice(VectorFile.open(Path(path).expanduser()).read(), most_words))
        if not pairs:
            raise InputError(f"{path} holds no word vectors")
        self._words = [word for word, _ in pairs]
        self._places = {word: place for place, word in reversed(list(enumerate(self._words)))}
        vectors = np.stack([vector for _, vector in pairs])
        self._vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)  # (words, D)
        self._known: dict[str, list[str]] = {}  # neighbours of the words that were asked for

    def changed(self, word: str, rng: random.Random) -> str | None:
        near = self.neighbours(word)
        return in_case_of(word, rng.choice(near)) if near else None

    def neighbours(self, word: str) -> list[str]:
        """The nearest first; the word itself in other case is none."""
        if word not in self._known:
            self._known[word] = self._neighbours(word)
        return self._known[word]

    def _neighbours(self, word: str) -> list[str]:
        place = self._places.get(word, self._places.get(word.lower()))
        if place is None:
            return []
        similarity = self._vectors @ self._vectors[place]  # (words,)
        near = np.flatnonzero(similarity >= self.min_similarity)
        near = near[np.argsort(-similarity[near], kind="stable")]
        words = (self._words[each] for each in near)
        return list(islice((each for each in words if each.lower() != word.lower()), self.nearest))
