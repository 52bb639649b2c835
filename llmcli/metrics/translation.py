"""BLEU, chrF and TER of texts, as sacrebleu computes them (Post 2018), with the signatures that say how.

Each is made of counts that sacrebleu takes of single sentences and adds up, so that examples can be resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from torch import Tensor

from llmcli.errors import InputError, require
from llmcli.metrics.texts import TextMetric
from llmcli.text.scripts import share

_PACKAGES = {"ja-mecab": ("MeCab", "Japanese"), "ko-mecab": ("mecab_ko", "Korean")}
MOSTLY = 0.3  # share of the letters from which on a text counts as written in a script


class Sacrebleu(TextMetric):
    """A figure in percent, of sacrebleu's `scorer`; size: how many counts it makes of a sentence.

    sacrebleu's own bootstrap goes the same way, by the two methods of its scorers that give and take these counts.
    """

    def __init__(self, scorer: BLEU | CHRF | TER, *, size: int) -> None:
        self.scorer = scorer
        super().__init__({self.sums[0]: (size,)})

    @property
    def signature(self) -> str:
        """How it was computed, once there are counts."""
        return str(self.scorer.get_signature())

    def each(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
        return {self.sums[0]: torch.tensor(self.scorer._extract_corpus_statistics(list(texts), [list(references)]))}

    def figure(self, totals: Mapping[str, Any]) -> float:
        return float(self.scorer._compute_score_from_stats(totals[self.sums[0]].tolist()).score)


class Bleu(Sacrebleu):
    """tokenize: sacrebleu's tokenizer.

    sentences: count only n-grams that are long enough for the text, for scores of single sentences.
    """

    name, higher_is_better, sums = "bleu", True, ("bleu_counts",)
    lowercase = False

    def __init__(self, tokenize: str, *, sentences: bool = False) -> None:
        self.tokenize = tokenize
        # force: what a run writes is not to be called tokenized because of how its sentences end
        scorer = BLEU(tokenize=tokenize, lowercase=self.lowercase, effective_order=sentences, force=True)
        super().__init__(scorer, size=10)

    def tokens(self, text: str) -> list[str]:
        """The words that it counts."""
        return str(self.scorer._preprocess_segment(text)).split()


class BleuLowercased(Bleu):
    """BLEU of texts and references in lower case, as the field reports it where case is not counted."""

    name, sums = "bleu_lowercased", ("bleu_lowercased_counts",)
    lowercase = True


class ChrF(Sacrebleu):
    """Matching n-grams of characters (Popović 2015)."""

    name, higher_is_better, sums = "chrf", True, ("chrf_counts",)

    def __init__(self) -> None:
        super().__init__(CHRF(), size=3 * CHRF.CHAR_ORDER)


class Ter(Sacrebleu):
    """Edits for each word of the reference (Snover et al. 2006); characters: of Chinese and Japanese characters."""

    name, higher_is_better, sums = "ter", False, ("ter_counts",)

    def __init__(self, *, characters: bool) -> None:
        super().__init__(TER(asian_support=characters, normalized=characters), size=2)


class LengthRatio(TextMetric):
    """Tokens of the texts, as BLEU counts them, over those of the references."""

    name, higher_is_better, sums = "length_ratio", True, Bleu.sums

    def __init__(self, bleu: Bleu) -> None:
        self._bleu = bleu
        super().__init__(bleu.shapes)

    def each(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
        return self._bleu.each(texts, references)

    def figure(self, totals: Mapping[str, Any]) -> float:
        written, asked, *_ = totals["bleu_counts"].tolist()
        return float(written / max(1.0, asked))


def translation_metrics(references: Sequence[str], *, tokenize: str | None = None) -> list[TextMetric]:
    """BLEU, also without case, chrF, TER and the length ratio of texts beside these references.

    tokenize: sacrebleu's tokenizer for BLEU; None: that of the language that the references are written in.

    Raises InputError for a tokenizer that sacrebleu does not have, and for one whose package is missing.
    """
    chosen = tokenize or tokenizer_for(references)
    if chosen not in BLEU.TOKENIZERS:
        raise InputError(f"sacrebleu has no tokenizer {chosen!r}", f"it has: {', '.join(sorted(BLEU.TOKENIZERS))}")
    if chosen in _PACKAGES:
        module, language = _PACKAGES[chosen]
        require(module, extra="mecab", purpose=f"BLEU of {language}")
    by_character = chosen == "zh" or chosen in _PACKAGES  # sentences without spaces have no words to edit
    bleu = Bleu(chosen)
    return [bleu, BleuLowercased(chosen), ChrF(), Ter(characters=by_character), LengthRatio(bleu)]


def tokenizer_for(references: Sequence[str]) -> str:
    """sacrebleu's tokenizer for the language of texts, told by their script: zh, ja-mecab, ko-mecab, else 13a.

    With the wrong one the score means nothing: Chinese has no spaces, so that 13a takes a sentence for a word.
    """
    text = " ".join(references)
    if share(text, ("Hangul",)) >= MOSTLY:
        return "ko-mecab"
    if share(text, ("Han", "Hiragana", "Katakana")) < MOSTLY:
        return "13a"
    return "ja-mecab" if share(text, ("Hiragana", "Katakana")) >= 0.1 else "zh"
