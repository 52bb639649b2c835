"""Training examples changed at random: words by the steps of `llmcli.text.augment`, and how the tokenizer cuts them.

Everything drawn for an example follows from (seed, epoch, its number, and which of its showings in the epoch this is).
Labels stay true: tags follow their tokens, and only these texts have their words changed:

| record | texts |
|---|---|
| LabeledText, LabeledPair | all |
| TextPair | the source |
| QuestionAnswer | the question: answers stay where they are |
| MultipleChoice | the context |
| TaggedTokens | the tokens |
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llmcli.data.mentions import MentionReplacement, Mentions
from llmcli.data.records import (
    LabeledPair,
    LabeledText,
    MultipleChoice,
    QuestionAnswer,
    Record,
    TaggedTokens,
    TextPair,
)
from llmcli.errors import InputError
from llmcli.seeds import mix
from llmcli.text.augment.apply import MASK, to_tags, to_text
from llmcli.text.augment.base import Step, checked
from llmcli.text.segment.base import Segmenter
from llmcli.text.segment.chinese import ChineseWords
from llmcli.text.segment.english import EnglishWords
from llmcli.tokenizers.base import Tokenizer

Ids = NDArray[Any]
Pieces = Sequence[str | None]  # text, and None for each hidden word between
Words = Literal["rule", "jieba"]

# the fields whose words may change and labels stay true, which are the first of the record's texts
CHANGED: dict[type[Record], tuple[str, ...]] = {
    LabeledText: ("text",),
    LabeledPair: ("first", "second"),
    TextPair: ("source",),
    QuestionAnswer: ("question",),
    MultipleChoice: ("context",),
}


@dataclass(frozen=True, kw_only=True)
class SubwordSampling:
    """Each text is cut into sub-words in another way every time it is shown (`Tokenizer.encode_sampled`).

    alpha: with tokenizer=bpe the probability that a merge is left out (BPE-dropout, Provilkov et al. 2020, who take
    0.1); with unigram how sharply likely ways are preferred, 0 for all alike (Kudo 2018, who takes 0.1 and 0.2).
    """

    alpha: float

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"augment.subword_sampling.alpha ({self.alpha}) must be from 0 to 1")


class Augmentation:
    """Steps applied to the examples of the train split; a call gives the changed record and the ids of its texts.

    share: the probability that an example is changed. words: what steps take for a word: "rule" cuts by English rules
    and single Chinese characters, "jieba" cuts Chinese words. examples: those of the train split.

    Raises InputError for records that have no label-safe way, and for steps that the tokenizer cannot follow.
    """

    def __init__(
        self,
        steps: Mapping[str, Step | SubwordSampling | Mentions],
        *,
        tokenizer: Tokenizer,
        record: type[Record],
        words: Words,
        share: float,
        seed: int,
        examples: Iterable[Record] = (),
    ) -> None:
        known: list[type[Record]] = [*CHANGED, TaggedTokens]
        if record not in known:
            raise InputError(
                f"augment=[{','.join(steps)}] cannot change {record.__name__} records and keep them true",
                f"it can: {', '.join(kind.__name__ for kind in known)}",
            )
        if words not in get_args(Words):
            raise InputError(f"batch.augment_words ({words}) must be one of {', '.join(get_args(Words))}")
        self.tokenizer, self.share, self.seed = tokenizer, checked(share), seed
        self.segmenter: Segmenter = (
            EnglishWords(contractions="whole") if words == "rule" else ChineseWords(hmm=True, user_words=())
        )
        self.steps = [step for step in steps.values() if isinstance(step, Step)]
        self.sampling = next((step for step in steps.values() if isinstance(step, SubwordSampling)), None)
        self.mentions: MentionReplacement | None = None
        for step in steps.values():
            if isinstance(step, Mentions):
                if record is not TaggedTokens:
                    raise InputError(
                        f"augment=[mentions] replaces entities of tagged sentences, and these are {record.__name__}s",
                        "leave it out",
                    )
                self.mentions = MentionReplacement(examples, rate=step.rate)
        if self.sampling is not None:
            tokenizer.encode_sampled("", alpha=self.sampling.alpha, seed=0)  # refuses if it cannot
        if tokenizer.mask_id is None and any(step.masks for step in self.steps):
            raise InputError("augment=[token_mask] needs a tokenizer with a <mask> token, which this one lacks")

    def __call__(
        self, record: Record, ids: list[Ids], *, number: int, showing: int, epoch: int
    ) -> tuple[Record, list[Ids]]:
        """ids: of the record's texts as they are. showing: which of those of example `number` in this epoch, from 0."""
        rng = random.Random(mix(self.seed, "augment", epoch, number, showing))
        if rng.random() >= self.share:
            return record, ids
        if isinstance(record, TaggedTokens):
            given: tuple[Sequence[str], Sequence[str]] = (record.tokens, record.tags)
            if self.mentions is not None:  # first: the other steps keep to the entities that it puts in
                given = self.mentions(*given, rng)
            tokens, tags = to_tags(*given, self.steps, rng)
            written = tuple(MASK if token is None else token for token in tokens)
            return replace(record, tokens=written, tags=tuple(tags)), [self._encode([each], rng) for each in tokens]
        names, texts = CHANGED[type(record)], record.texts()
        pieces: list[Pieces] = [[text] for text in texts]
        if self.steps:
            pieces[: len(names)] = [to_text(text, self.steps, self.segmenter, rng) for text in texts[: len(names)]]
        changed = {name: "".join(MASK if each is None else each for each in pieces[i]) for i, name in enumerate(names)}
        found = [
            ids[i] if self.sampling is None and list(pieces[i]) == [text] else self._encode(pieces[i], rng, first=not i)
            for i, text in enumerate(texts)
        ]
        return replace(record, **changed), found  # type: ignore[type-var]

    def _encode(self, pieces: Pieces, rng: random.Random, *, first: bool = True) -> Ids:
        """first: they are of the record's first text, which of a pair is the source."""
        tokenizer = self.tokenizer.of_sources if first else self.tokenizer
        row: list[int] = []
        for piece in pieces:
            if piece is None:
                assert tokenizer.mask_id is not None
                row.append(tokenizer.mask_id)
            elif self.sampling is None:
                row += tokenizer.encode(piece)
            else:
                row += tokenizer.encode_sampled(piece, alpha=self.sampling.alpha, seed=rng.getrandbits(31))
        return np.array(row, np.int64)
