"""Multiple choice: which of four summaries belongs to what is said of an object; the others are of the same module."""

from __future__ import annotations

from collections.abc import Iterator

from llmcli.data.readers.python.source import Module, PythonRecords, number
from llmcli.data.readers.python.summaries import other_summaries, summarised
from llmcli.data.records import MultipleChoice

CHOICES = 4
QUESTION = "Which line sums this up?"


class PythonChoices(PythonRecords[MultipleChoice]):
    """Four summaries each, the right one at a place drawn by the object's name."""

    record = MultipleChoice
    version = 1

    def examples(self, module: Module) -> Iterator[MultipleChoice]:
        objects = summarised(module)
        for each in objects:
            choices = other_summaries(each, objects, CHOICES - 1)
            if len(choices) == CHOICES - 1:
                place = number(each.name) % CHOICES
                choices.insert(place, each.summary)
                yield MultipleChoice(each.text, QUESTION, tuple(choices), place)
