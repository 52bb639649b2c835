"""Start a model's input embedding from word vectors that exist: `model.embedding_init=PATH`, `init=` a run of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from llmcli import checkpoint, runs
from llmcli.errors import InputError
from llmcli.tokenizers.base import RESERVED, Tokenizer
from llmcli.vectors import VectorFile

KEY = "model.embedding_init"

Vectors = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of a vocabulary's `words` (its ids but the reserved ones) got a vector."""

    path: Path
    words: int
    found: int

    def __str__(self) -> str:
        return f"{self.found:,} of {self.words:,} ids ({self.found / max(1, self.words):.0%}) start from {self.path}"


def initialise(task: nn.Module, tokenizer: Tokenizer, path: Path, *, key: str = KEY) -> Coverage:
    """Give the rows of the input embedding of a task the vectors of the text that each id stands for; the rest stay.

    path: a file of vectors (`llmcli.vectors`), a run of word vectors, or its checkpoint. An id takes the vector of its
    text as it is, else in lower case, without spaces around it. Raises InputError, which begins with `key`, where the
    model has no such table, the width of the vectors is another, or none of them is of this vocabulary.
    """
    model = getattr(task, "model", task)
    table = getattr(model, "input_embedding", None)
    if not isinstance(table, nn.Embedding):
        raise InputError(f"{key}: {type(model).__name__} has no input embedding")
    exact: dict[str, list[int]] = {}
    lowered: dict[str, list[int]] = {}
    for index in range(len(RESERVED), tokenizer.vocab_size):
        text = tokenizer.decode([index]).strip()
        if text:
            exact.setdefault(text, []).append(index)
            if text != text.lower():
                lowered.setdefault(text.lower(), []).append(index)
    dimensions, vectors = _source(path, lambda word: word in exact or word in lowered, key)
    if dimensions != table.embedding_dim:
        raise InputError(
            f"{key}: the vectors of {path} have {dimensions} dimensions, the model's embedding has "
            f"{table.embedding_dim}",
            f"make the embedding as wide: model.d_model={dimensions} (model.d_embed for mlp)",
        )
    found: set[int] = set()
    second: set[int] = set()  # by their lower case, which gives way to the word as it is
    with torch.no_grad():
        for word, vector in vectors:
            own = [index for index in exact.get(word, ()) if index not in found]
            others = [index for index in lowered.get(word, ()) if index not in found | second]
            table.weight[own + others] = vector.to(table.weight)
            found.update(own)
            second.update(others)
    covered = len(found | second)
    if not covered:
        raise InputError(
            f"{key}: no word of {path} is in the vocabulary", "tokenizer=word has one id for each word of the text"
        )
    return Coverage(path, tokenizer.vocab_size - len(RESERVED), covered)


def _source(path: Path, wanted: Callable[[str], bool], key: str) -> tuple[int, Vectors]:
    """The width of the vectors at `path`, and those that are wanted."""
    if not path.exists():
        raise InputError(f"{key}: there is no {path}", "a file of word vectors, or a run of model=word2vec")
    if not path.is_dir() and path.suffix != ".ckpt":
        file = VectorFile.open(path)
        return file.dimensions, ((word, torch.from_numpy(vector.copy())) for word, vector in file.read(wanted))
    loaded = checkpoint.load(runs.resolve(str(path), "use"))
    if not hasattr(loaded.task, "vectors"):
        raise InputError(f"{key}: {path} is a {type(loaded.task).__name__} run, which has no word vectors")
    words, matrix = loaded.task.vectors(loaded.tokenizer)
    return matrix.size(1), ((word, row) for word, row in zip(words, matrix, strict=True) if wanted(word))
