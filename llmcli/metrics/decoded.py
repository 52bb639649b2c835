"""All that decoded texts are scored with: translations, summaries and answers each find the figures of their field."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from llmcli.errors import InputError
from llmcli.metrics.bootstrap import figures_of
from llmcli.metrics.overlap import distinct_n, readable, rouge
from llmcli.metrics.texts import TextMetric, self_bleu
from llmcli.metrics.translation import Bleu, ChrF, Sacrebleu, translation_metrics

# how the figures are shown, by what they are of
GROUPS: Mapping[str, tuple[str, ...]] = {
    "beside the references": ("exact", "length_ratio"),
    "as translations": ("bleu", "bleu_lowercased", "chrf", "ter"),
    "as summaries": ("rouge1", "rouge2", "rougeL"),
    "variety": ("distinct_1", "distinct_2", "self_bleu"),
}
COMPARED = 500  # texts, chosen evenly, that are compared with each other for `self_bleu`


class Rouge(TextMetric):
    """Mean F1 of ROUGE over the texts (Lin 2004), in percent, without stemming; a subclass says of what."""

    higher_is_better = True

    def each(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
        found = [rouge(*pair)[self.name].f1 for pair in zip(texts, references, strict=True)]
        return {self.name: torch.tensor(found, dtype=torch.float64), "texts": torch.ones(len(found))}

    def figure(self, totals: Mapping[str, float]) -> float:
        return 100 * totals[self.name] / max(1.0, totals["texts"])


class Rouge1(Rouge):
    name, sums = "rouge1", ("rouge1", "texts")


class Rouge2(Rouge):
    name, sums = "rouge2", ("rouge2", "texts")


class RougeL(Rouge):
    name, sums = "rougeL", ("rougeL", "texts")


class Exact(TextMetric):
    """Share of the texts that are their reference to the letter."""

    name, higher_is_better, sums = "exact", True, ("exact", "texts")

    def each(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
        same = [text == reference for text, reference in zip(texts, references, strict=True)]
        return {"exact": torch.tensor(same), "texts": torch.ones(len(same))}

    def figure(self, totals: Mapping[str, float]) -> float:
        return totals["exact"] / max(1.0, totals["texts"])


class TextScorer:
    """Scores texts beside these references, which decide by their script how words are told apart.

    ROUGE is left out where it could not read most of what they are written in. Raises InputError where a tokenizer's
    package is missing, and for no references.
    """

    def __init__(self, references: Sequence[str]) -> None:
        if not references:
            raise InputError("there are no references to score texts beside")
        self.references = list(references)
        self.metrics: list[TextMetric] = [Exact(), *translation_metrics(references)]
        if readable(references):
            self.metrics += [Rouge1(), Rouge2(), RougeL()]
        [self._bleu] = [metric for metric in self.metrics if type(metric) is Bleu]
        self._sentence = [Bleu(self._bleu.tokenize, sentences=True), ChrF()]

    def each(self, texts: Sequence[str], *, only: Collection[str] | None = None) -> dict[str, Tensor]:
        """What each text (N) adds to the sums of `metrics`, (N, ...) by their names; only: of these figures."""
        found: dict[str, Tensor] = {}
        for metric in self.metrics:
            if (only is None or metric.name in only) and not set(metric.sums) <= found.keys():
                found |= metric.each(texts, self.references)
        return found

    def figures(self, texts: Sequence[str], each: Mapping[str, Tensor]) -> dict[str, float]:
        """The figures of all texts, of which `each` was made, in the order of GROUPS."""
        found = figures_of(self.metrics, each) | self.variety(texts)
        return {name: found[name] for names in GROUPS.values() for name in names if name in found}

    def variety(self, texts: Sequence[str]) -> dict[str, float]:
        """How much the texts repeat themselves and each other, in words as BLEU counts them."""
        words = [self._bleu.tokens(text) for text in texts]
        found = {f"distinct_{n}": distinct_n(words, n) for n in (1, 2)}
        alike = self_bleu([words[number] for number in evenly(len(words), COMPARED)])
        return found if alike is None else found | {"self_bleu": alike}

    def sentences(self, each: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """Scores of single texts by name: BLEU of the n-grams that they are long enough for, chrF, ROUGE-L."""
        found = {
            metric.name: [metric.figure({metric.sums[0]: row}) for row in each[metric.sums[0]]]
            for metric in self._sentence
        }
        return found | ({"rougeL": (100 * each["rougeL"]).tolist()} if "rougeL" in each else {})

    def signatures(self) -> dict[str, str]:
        """sacrebleu's, by the name of the figure, once texts have been scored."""
        return {metric.name: metric.signature for metric in self.metrics if isinstance(metric, Sacrebleu)}


def evenly(number: int, most: int) -> list[int]:
    """At most so many numbers from 0 to number - 1, as far apart as can be."""
    return [number * each // min(number, most) for each in range(min(number, most))]
