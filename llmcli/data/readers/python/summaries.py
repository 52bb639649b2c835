"""Summaries: the body of a docstring under its signature, and the first line that it had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmcli.data.readers.python.docstrings import summary_and_body
from llmcli.data.readers.python.source import Module, PythonRecords, number
from llmcli.data.records import TextPair

MIN_BODY = 80  # characters


class PythonSummaries(PythonRecords[TextPair]):
    """What is said of an object, and its summary in one line."""

    record = TextPair
    version = 1

    def examples(self, module: Module) -> Iterator[TextPair]:
        return (TextPair(each.text, each.summary) for each in summarised(module))


@dataclass(frozen=True)
class Summarised:
    """text: the signature of an object and its docstring without the summary."""

    name: str
    text: str
    summary: str


def summarised(module: Module) -> list[Summarised]:
    """The objects of a module whose docstrings begin with a summary, and have a body worth one."""
    found = []
    for each in module.objects:
        parts = summary_and_body(each.doc)
        if parts and len(parts[1]) >= MIN_BODY:
            found.append(Summarised(each.name, f"{each.signature}\n\n{parts[1]}", parts[0]))
    return found


def other_summaries(of: Summarised, among: Sequence[Summarised], count: int) -> list[str]:
    """Up to `count` different summaries of other objects, drawn by the name of this one."""
    found = {each.summary for each in among} - {of.summary}
    return sorted(found, key=lambda summary: number(f"{of.name} {summary}"))[:count]
