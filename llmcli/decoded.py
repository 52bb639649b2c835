"""What a run makes of sources: its texts, and how they score beside the references of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from llmcli.data.examples import Examples
from llmcli.decoding.base import Search, SourceModel, Strategy
from llmcli.decoding.generate import Generation, generate
from llmcli.decoding.sample import row_seeds
from llmcli.metrics.decoded import TextScorer
from llmcli.tasks.base import Task
from llmcli.tokenizers.base import Tokenizer

AT_ONCE = 256  # sources between two reports of progress


def scorer_of(examples: Examples) -> TextScorer:
    """What the texts for these examples will be scored with; known before there are any.

    Raises InputError where a package is missing without which texts in this language have no score.
    """
    return TextScorer([record.texts()[-1].strip() for record in examples])


@torch.inference_mode()
def decode(
    task: Task,
    tokenizer: Tokenizer,
    examples: Examples,
    *,
    strategy: Strategy | Search,
    max_new_tokens: int,
    report: Callable[[int], None] | None = None,
) -> list[str]:
    """The texts that `strategy` finds for the sources of all examples, which are cut to what the model reads; of one
    without a source "". What is drawn for an example follows from its number alone.

    report is called with how many are done.
    """
    limit = getattr(task, "max_seq_len", None)
    longest = None if limit is None else limit - 1  # an end follows
    sources = [examples.ids(number)[0].tolist()[:longest] for number in range(len(examples))]
    order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
    found: dict[int, Generation] = {}
    seeds = row_seeds(0, len(sources))
    for start in range(0, len(order), AT_ONCE):
        numbers = order[start : start + AT_ONCE]
        results = generate(
            cast(SourceModel, task),
            tokenizer,
            [sources[number] for number in numbers],
            strategy=strategy,
            max_new_tokens=max_new_tokens,
            seed=[seeds[number] for number in numbers],
            skip_blank=True,
        )
        found.update(zip(numbers, results, strict=True))
        if report is not None:
            report(len(found))
    return [found[number].text.strip() for number in range(len(sources))]


@dataclass(frozen=True)
class Decoded:
    """The texts (N) of the sources of a split. each (N, ...): what each adds to the sums of the scorer's metrics."""

    scorer: TextScorer
    sources: Sequence[str]
    texts: Sequence[str]
    each: Mapping[str, Tensor]

    @classmethod
    def of(cls, texts: Sequence[str], examples: Examples, scorer: TextScorer) -> Decoded:
        sources = [record.texts()[0] for record in examples]
        return cls(scorer=scorer, sources=sources, texts=texts, each=scorer.each(texts))

    def figures(self) -> dict[str, Any]:
        """The scores, and sacrebleu's signatures of those that are its own."""
        signatures = self.scorer.signatures()
        return {
            **self.scorer.figures(self.texts, self.each),
            **{f"{name}_signature": signature for name, signature in signatures.items()},
        }

    def outcomes(self, losses: Sequence[float]) -> list[dict[str, Any]]:
        """What became of each example, in plain values; losses (N,): of its reference, in nats a token."""
        scores = self.scorer.sentences(self.each)
        columns = zip(self.sources, self.scorer.references, self.texts, losses, *scores.values(), strict=True)
        return [
            {
                "source": source,
                "reference": reference,
                "text": text,
                "right": text == reference,
                **dict(zip(scores, values, strict=True)),
                "loss": loss,
            }
            for source, reference, text, loss, *values in columns
        ]
