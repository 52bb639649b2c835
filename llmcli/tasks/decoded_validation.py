"""Texts that a task writes at each validation, and how they score: what decides which weights write best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from llmcli.data.records import TextPair
from llmcli.decoding.base import SourceModel
from llmcli.decoding.generate import generate
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError
from llmcli.metrics.decoded import Exact, Rouge1, evenly
from llmcli.metrics.texts import TextMetric
from llmcli.metrics.translation import Bleu, ChrF, tokenizer_for, translation_metrics
from llmcli.tokenizers.base import Tokenizer

GREEDY = Greedy(penalties=Penalties(repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=0))


def validation_metrics(tokenize: str = "13a") -> list[TextMetric]:
    """What such texts are scored with; tokenize: how BLEU's counts are taken, which nothing else depends on."""
    return [Bleu(tokenize), ChrF(), Rouge1(), Exact()]


class DecodedValidation:
    """`number` pairs of the split, chosen evenly and the same ones each time, of which each process writes its share.

    sources: the ids of all pairs that are chosen. Raises InputError where a package is missing without which texts in
    this language have no score.
    """

    def __init__(
        self,
        records: Sequence[TextPair],
        sources: Sequence[Sequence[int]],
        *,
        tokenizer: Tokenizer,
        rank: int,
        world: int,
    ) -> None:
        if not records:
            raise InputError("task.decode_val decodes pairs of the val split, which has none", "task.decode_val=0")
        references = [record.target.strip() for record in records]
        translation_metrics(references)  # refuses what the language lacks
        self.metrics = validation_metrics(tokenizer_for(references))
        self.tokenizer = tokenizer
        # a text that goes on and on is cut where it is certainly wrong
        self.longest = 10 + 2 * max(len(tokenizer.encode(text)) for text in references)
        self.sources, self.references = list(sources[rank::world]), references[rank::world]

    @classmethod
    def of(cls, prepared: Any, number: int, *, limit: int | None, rank: int, world: int) -> DecodedValidation:
        """Of the val split of prepared data; limit: of a source in tokens."""
        examples = prepared.examples("val")
        chosen = evenly(len(examples), number)
        return cls(
            [cast("TextPair", examples[each]) for each in chosen],
            [examples.ids(each)[0].tolist()[:limit] for each in chosen],
            tokenizer=prepared.tokenizer,
            rank=rank,
            world=world,
        )

    @torch.no_grad()
    def sums(self, model: SourceModel) -> dict[str, Tensor]:
        """What the texts that the model writes add to the sums of `metrics`; nothing of no share."""
        if not self.sources:
            return {}
        found = generate(
            model,
            self.tokenizer,
            self.sources,
            strategy=GREEDY,
            max_new_tokens=self.longest,
            seed=0,
            skip_blank=True,
        )
        texts = [each.text.strip() for each in found]
        each: dict[str, Tensor] = {}
        for metric in self.metrics:
            each |= metric.each(texts, self.references)
        return {name: value.sum(0) for name, value in each.items()}
