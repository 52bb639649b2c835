"""Our cleaning steps inside datatrove's pipelines, for corpora beyond one machine (its local, Slurm and Ray executors).

    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from llmcli import config
    from llmcli.data.datatrove import CleanDocuments

    steps = config.build(config.compose("prepare", ["clean=[html,whitespace]"]).clean)
    pipeline = [JsonlReader("raw/"), CleanDocuments(steps), JsonlWriter("cleaned/")]
    LocalPipelineExecutor(pipeline, tasks=64, workers=8, logging_dir="logs/").run()

What it writes is read by `data=text data.path=cleaned/`, and `llm prepare` makes token shards of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from llmcli.data.cleaning import Cleaning
from llmcli.data.readers.stream import pieces
from llmcli.data.source import Clean


class Document(Protocol):
    """As much as is needed of `datatrove.data.Document`."""

    text: str


D = TypeVar("D", bound=Document)


class CleanDocuments:
    """A pipeline step that cleans as `llm prepare` does: a long document piece by piece, in the same pieces.

    A document of which nothing is left is dropped. Raises InputError for what is no cleaning step.
    """

    def __init__(self, steps: Mapping[str, Clean]) -> None:
        self.cleaning = Cleaning(steps)

    def __call__(self, data: Iterable[D], rank: int = 0, world_size: int = 1, **_: Any) -> Iterator[D]:
        """datatrove's signature of a step; rank and world_size are the reader's concern."""
        for document in data:
            kept = filter(None, (self.cleaning(piece.text) for piece in pieces([document.text])))
            if text := "".join(kept):
                document.text = text
                yield document
