"""BLEU, chrF and TER of whole texts, as sacrebleu computes them (Post 2018), with the signatures that say how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from llmcli.errors import InputError, require
from llmcli.text.scripts import share

_PACKAGES = {"ja-mecab": ("MeCab", "Japanese"), "ko-mecab": ("mecab_ko", "Korean")}
MOSTLY = 0.3  # share of the letters from which on a text counts as written in a script


def translation_scores(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str | None = None
) -> dict[str, Any]:
    """`bleu`, `chrf`, `ter` in percent, and `bleu_lowercased` as the field reports it where case is not counted.

    tokenize: sacrebleu's tokenizer for BLEU; None: that of the language that the references are written in. Under
    `signatures` stands how each was computed, and `length_ratio` is the tokens of the hypotheses over those of the
    references.

    Raises InputError for lists that differ in length or are empty, for a tokenizer that sacrebleu does not have, and
    for one whose package is missing.
    """
    if len(hypotheses) != len(references) or not references:
        raise InputError(f"{len(hypotheses):,} hypotheses cannot be scored against {len(references):,} references")
    chosen = tokenize or tokenizer_for(references)
    if chosen not in BLEU.TOKENIZERS:
        raise InputError(f"sacrebleu has no tokenizer {chosen!r}", f"it has: {', '.join(sorted(BLEU.TOKENIZERS))}")
    if chosen in _PACKAGES:
        module, language = _PACKAGES[chosen]
        require(module, extra="mecab", purpose=f"BLEU of {language}")
    asian = chosen == "zh" or chosen in _PACKAGES  # edits of characters, since sentences have no words between spaces
    scorers = {
        "bleu": BLEU(tokenize=chosen),
        "bleu_lowercased": BLEU(tokenize=chosen, lowercase=True),
        "chrf": CHRF(),
        "ter": TER(asian_support=asian, normalized=asian),
    }
    found = {name: scorer.corpus_score(list(hypotheses), [list(references)]) for name, scorer in scorers.items()}
    return {
        **{name: float(each.score) for name, each in found.items()},
        "length_ratio": found["bleu"].sys_len / max(1, found["bleu"].ref_len),
        "signatures": {name: str(scorer.get_signature()) for name, scorer in scorers.items()},
    }


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
