"""A tag for each word of a sentence: named entities, parts of speech, semantic roles.

Shapes: B sentences, T ids of the longest, W words of the longest, C tags, D model width, E input width, L bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmcli.data.example_batches import collate
from llmcli.data.records import Record, TaggedTokens
from llmcli.errors import InputError
from llmcli.heads import TokenHead
from llmcli.layers.characters import CharacterCNN, CharacterLSTM, Spelling
from llmcli.layers.ngrams import NgramEmbedding
from llmcli.losses import IGNORED
from llmcli.metrics.base import Metric
from llmcli.metrics.classification import MacroF1, per_class
from llmcli.metrics.entities import (
    EntityCounts,
    EntityF1,
    EntityPrecision,
    EntityRecall,
    TagAccuracy,
    marks_spans,
    spans_of,
    tag_counts,
)
from llmcli.metrics.text import Loss
from llmcli.models.base import Backbone
from llmcli.tasks.base import Batch, Stage, StepResult, Task
from llmcli.tasks.rows import by_length
from llmcli.tasks.tagged_words import NONE, Encoder, Part, Words, marked, parts_of, word_spans
from llmcli.tokenizers.base import Tokenizer

D_BYTE = 25  # width of the embedding of a byte
LONGEST_EXAMPLE = 60  # characters


class Tagging(Task):
    """Learns P(tags | words) from `TaggedTokens` records, with any encoder that has a hidden state for each token.

    A word's hidden state is that of its first id (Devlin et al. 2019). names: the tags. crf: a conditional random field
    over the tags, else a softmax for each word. characters: what makes a vector of d_characters of the spelling of each
    word, of which longest_word bytes are read; it is added to the embedding of the word's first id. word_dropout: a
    word that stands n times in the train split is read as unknown with the probability word_dropout / (n + it)
    (Kiperwasser & Goldberg 2016). marks: a sentence stands between <cls> and <sep>. words: what a word of a text to
    predict for is (`word_spans`).

    Raises InputError for data with fewer than two tags, and for options out of range.
    """

    takes = ("TaggedTokens",)
    kinds = ("attention", "recurrent", "convolution")
    needs_causal = False
    learns_from = "examples"
    floor = "tags"

    def __init__(
        self,
        *,
        model: Backbone,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[float, int], float] | None = None,
        causal: bool,
        names: list[str],
        crf: bool,
        characters: Spelling,
        d_characters: int,
        longest_word: int,
        word_dropout: float,
        dropout: float,
        words: Words,
        pair_rows: int = 0,  # these two as runs of before were trained
        marks: bool = False,
    ) -> None:
        super().__init__(optimizer=optimizer, schedule=schedule)
        if len(names) < 2:
            found = f"only {names[0]!r}" if names else "none"
            raise InputError(f"tagging needs two tags or more; the train split has {found}")
        if characters not in get_args(Spelling):
            raise InputError(f"task.characters ({characters}) must be one of {', '.join(get_args(Spelling))}")
        if longest_word < 3:
            raise InputError(f"task.longest_word ({longest_word}) must be at least 3: a byte between two marks")
        if pair_rows < 0:
            raise InputError(f"task.pair_rows ({pair_rows}) must be at least 0; 0 is without pairs")
        if word_dropout < 0:
            raise InputError(f"task.word_dropout ({word_dropout}) must be at least 0")
        if words not in get_args(Words):
            raise InputError(f"task.words ({words}) must be one of {', '.join(get_args(Words))}")
        self.model = model
        self.head = TokenHead(d_model=model.d_model, names=names, crf=crf, dropout=dropout)
        self.spelling: nn.Module | None = None
        if characters != "none":
            kind = CharacterCNN if characters == "cnn" else CharacterLSTM
            self.spelling = kind(d_embed=D_BYTE, d_out=d_characters)
            self.blend = nn.Linear(d_characters, model.input_embedding.embedding_dim, bias=False)
        self.pairs: NgramEmbedding | None = None
        if pair_rows:
            words_of = model.input_embedding
            self.pairs = NgramEmbedding(
                vocab_size=words_of.num_embeddings, d_model=words_of.embedding_dim, rows=[pair_rows]
            )
            for table in self.pairs.parameters():
                nn.init.normal_(table, std=float(words_of.weight.detach().std()))
        self.names, self.words, self.marks = tuple(names), words, marks
        self.longest = None if characters == "none" else longest_word
        self.entities = EntityCounts(names) if marks_spans(names) else None
        self.monitor = "val_accuracy" if self.entities is None else "val_f1"
        self.word_dropout = word_dropout
        self.unknown: tuple[Tensor, int] | None = None  # how probably each id is read as unknown (V,), and that id
        self.max_seq_len = model.max_seq_len

    @property
    def width(self) -> int:
        return self.model.d_model

    def encoder(self, tokenizer: Tokenizer) -> Encoder:
        return Encoder(names=self.names, longest=self.longest, marks=self.marks, tokenizer=tokenizer)

    def setup(self, stage: str) -> None:
        """Count the words of the train split, for word_dropout."""
        if stage != "fit" or not self.word_dropout:
            return
        prepared = self.trainer.datamodule.prepared  # type: ignore[attr-defined]
        counts = torch.from_numpy(prepared.examples("train").id_counts(prepared.tokenizer.vocab_size))
        if prepared.tokenizer.unk_id is not None:
            rates = self.word_dropout / (counts + self.word_dropout)
            rates[[each for each in (prepared.tokenizer.cls_id, prepared.tokenizer.sep_id) if each is not None]] = 0
            self.unknown = rates, prepared.tokenizer.unk_id

    # -- loss --------------------------------------------------------------------------------------------------

    def scores(self, batch: Batch, real: Tensor) -> Tensor:
        """ids (B, T), mask (B, T), first (B, W), characters (B, W * L) -> what each tag is worth (B, W, C)."""
        ids, first = batch["ids"], batch["first"]
        if self.training and self.unknown is not None:
            rates, unk_id = self.unknown
            drawn = torch.rand(ids.shape, device=ids.device) < rates.to(ids.device)[ids]
            ids = ids.masked_fill(drawn, unk_id)
        embedded = None if self.spelling is None else self._spelled(ids, first, batch["characters"], real)
        if self.pairs is not None:
            if embedded is None:
                embedded = cast("Tensor", self.model.input_embedding(ids))
            embedded = embedded + self.pairs(self.pairs.history(ids, batch.get("mask"), None)).to(embedded.dtype)
        hidden = self.model(ids, mask=batch.get("mask"), inputs_embeds=embedded)  # (B, T, D)
        of_words = hidden.gather(1, first.clamp(min=0).unsqueeze(2).expand(-1, -1, hidden.size(2)))  # (B, W, D)
        return self.head.scores(of_words)

    def _spelled(self, ids: Tensor, first: Tensor, characters: Tensor, real: Tensor) -> Tensor:
        """The embeddings (B, T, E) with what the spelling of each word adds to its first id."""
        assert self.spelling is not None and self.longest is not None
        embedded = cast("Tensor", self.model.input_embedding(ids))
        if not real.any():
            return embedded
        spelled = characters.view(*first.shape, self.longest)[real]  # (N, L)
        spelled = spelled[:, : int((spelled != 0).sum(1).max())]
        added = self.blend(self.spelling(spelled)).to(embedded.dtype)  # (N, E)
        rows = torch.arange(len(ids), device=ids.device).unsqueeze(1).expand_as(first)[real]
        return embedded.index_put((rows, first[real]), added, accumulate=True)

    def _step(self, batch: Batch, stage: Stage) -> StepResult:
        labels, real = batch["labels"], batch["first"] != NONE
        n, tokens = batch["n_tokens"], batch["n_ids"]
        scores = self.scores(batch, real)
        losses = self.head.losses(scores, labels, real)  # (B,)
        if stage == "train":
            return StepResult(loss=losses.sum(), n=n, tokens=tokens)
        predicted = self.head.decode(scores, real)  # (B, W)
        words = labels != IGNORED  # those cut off as well
        if self.entities is None:
            counts = tag_counts(predicted, labels, len(self.names))
        else:
            counts = self.entities(predicted, labels)
        right = (predicted == labels) & words
        each = {"loss": losses, "n": real.sum(1), "words": words.sum(1), "correct": right.sum(1), **counts}
        return StepResult.of_examples(each, n=n, tokens=tokens, outputs={"tags": predicted})

    def metrics(self) -> Sequence[Metric]:
        if self.entities is None:
            return Loss(), TagAccuracy(), MacroF1(classes=len(self.names))
        kinds = (EntityF1, EntityPrecision, EntityRecall)
        return Loss(), TagAccuracy(), *(kind(types=len(self.entities.types)) for kind in kinds)

    def by_class(self, sums: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Of each type of entity, or each tag: precision, recall, f1 and support."""
        names = self.names if self.entities is None else self.entities.types
        return per_class(**{name: sums[name] for name in ("hits", "predicted", "true")}).named(names)

    def outcomes(self, records: Sequence[Record], result: StepResult) -> list[dict[str, Any]]:
        """For each sentence its tags as they are and as they were predicted: O, or none, where it was cut."""
        found = []
        nothing = "" if self.entities is None else "O"  # what is said of a word that was cut off
        losses = (result.each["loss"] / result.each["n"].clamp(min=1)).tolist()
        for record, ids, loss in zip(records, result.outputs["tags"].tolist(), losses, strict=True):
            assert isinstance(record, TaggedTokens)
            predicted = [nothing if tag < 0 else self.names[tag] for tag in ids[: len(record.tokens)]]
            text, places = record.joined()
            one: dict[str, Any] = {
                "text": text,
                "tokens": list(record.tokens),
                "true": list(record.tags),
                "predicted": predicted,
                "right": predicted == list(record.tags),
                "loss": loss,
            }
            if self.entities is not None:
                one["spans"] = marked(spans_of(record.tags), spans_of(predicted), places)
            found.append(one)
        return found

    def example(self, text: str) -> str:
        """Something to ask `predict`: how the text begins."""
        return text if len(text) <= LONGEST_EXAMPLE else text[:LONGEST_EXAMPLE].rpartition(" ")[0] or text[:20]

    # -- prediction --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, texts: Sequence[str], tokenizer: Tokenizer, *, top: int) -> list[dict[str, Any]]:
        """For each text its entities, or the tags of its words, with places in the text and probabilities.

        A text that is longer than the model reads is tagged in parts. `top` has no meaning here: all are answered.
        """
        self.eval()
        encode = self.encoder(tokenizer)
        limit = None if self.max_seq_len is None else self.max_seq_len - encode.extra
        parts = [
            part
            for number, text in enumerate(texts)
            for part in parts_of(number, text, word_spans(text, self.words, tokenizer), tokenizer, limit)
        ]
        found: list[list[dict[str, Any]]] = [[]] * len(parts)
        for chosen in by_length([len(part.words) for part in parts]):
            batch = collate([encode.words(parts[index].words, parts[index].ids) for index in chosen], encode.pad)
            batch = {name: value.to(self.device) for name, value in batch.items() if isinstance(value, Tensor)}
            for index, answers in zip(chosen, self._answers([parts[index] for index in chosen], batch), strict=True):
                found[index] = answers
        key = "tags" if self.entities is None else "entities"
        whole: list[dict[str, Any]] = [{"text": text, key: []} for text in texts]
        for part, answers in zip(parts, found, strict=True):
            whole[part.number][key] += answers
        return whole

    def _answers(self, parts: Sequence[Part], batch: Batch) -> list[list[dict[str, Any]]]:
        """What is said of each part, in the order of its words."""
        real = batch["first"] != NONE
        scores = self.scores(batch, real)
        marginals, tags = self.head.marginals(scores, real), self.head.decode(scores, real)  # tags (B, W)
        shares = marginals.tags().gather(2, tags.clamp(min=0).unsqueeze(2)).squeeze(2)  # (B, W)
        found = []
        for row, part in enumerate(parts):
            ids = tags[row, : len(part.words)].tolist()
            names = [self.names[tag] for tag in ids]
            if self.entities is None:
                said = [
                    {"text": word, "tag": name, "start": start, "end": end, "probability": share}
                    for word, name, (start, end), share in zip(
                        part.words, names, part.places, shares[row, : len(ids)].tolist(), strict=True
                    )
                ]
            else:
                said = [
                    {
                        "label": span.type,
                        "text": part.text[part.places[span.start][0] : part.places[span.end - 1][1]],
                        "start": part.places[span.start][0],
                        "end": part.places[span.end - 1][1],
                        "probability": marginals.span(
                            row,
                            span.start,
                            ids[span.start : span.end],
                            not_after=[tag for tag, name in enumerate(self.names) if name == f"I-{span.type}"],
                        ),
                    }
                    for span in spans_of(names)
                ]
            found.append(said)
        return found
