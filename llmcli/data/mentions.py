"""Entities that take each other's place: mention replacement (Dai & Adel 2020: An Analysis of Simple Data Augmentation
for Named Entity Recognition).

What a tagger sees of a name it can learn by heart. With another name of that kind in its place, only the words around
it and how such names are spelled are left to go by.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmcli.data.records import Record, TaggedTokens
from llmcli.errors import InputError
from llmcli.text.augment.apply import entity_spans
from llmcli.text.augment.base import checked


@dataclass(frozen=True, kw_only=True)
class Mentions:
    """rate: the probability that an entity is replaced by another of its kind from the train split."""

    rate: float

    def __post_init__(self) -> None:
        checked(self.rate)


class MentionReplacement:
    """The different entities of each kind in the examples, and sentences in which some stand for others.

    Raises InputError where no example has an entity in IOB2.
    """

    def __init__(self, examples: Iterable[Record], *, rate: float) -> None:
        found: dict[str, dict[tuple[str, ...], None]] = {}
        for record in examples:
            assert isinstance(record, TaggedTokens)
            for start, end in entity_spans(record.tags):
                found.setdefault(record.tags[start][2:], {})[record.tokens[start:end]] = None
        if not found:
            raise InputError("augment=[mentions] replaces entities, and the train split has none", "leave it out")
        self._rate = rate
        self._mentions = {kind: list(mentions) for kind, mentions in found.items()}

    def __call__(self, tokens: Sequence[str], tags: Sequence[str], rng: random.Random) -> tuple[list[str], list[str]]:
        """Tokens and their tags, valid IOB2 where they were."""
        words: list[str] = []
        labels: list[str] = []
        last = 0
        for start, end in entity_spans(tags):
            words += tokens[last:start]
            labels += tags[last:start]
            kind, mention = tags[start][2:], tuple(tokens[start:end])
            if rng.random() < self._rate:
                mention = rng.choice(self._mentions[kind])
            words += mention
            labels += [f"B-{kind}", *[f"I-{kind}"] * (len(mention) - 1)]
            last = end
        return [*words, *tokens[last:]], [*labels, *tags[last:]]
