"""Preferences: the summary of an object is preferred to that of another one in the same module.

Nobody was asked: it teaches a model to stay with what it was shown, and tests the way from pairs to a policy.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmcli.data.readers.python.source import Module, PythonRecords
from llmcli.data.readers.python.summaries import other_summaries, summarised
from llmcli.data.records import Preference, Turn


class PythonPreferences(PythonRecords[Preference]):
    """A request to sum up, its own summary, and one that belongs to something else."""

    record = Preference
    version = 1

    def examples(self, module: Module) -> Iterator[Preference]:
        objects = summarised(module)
        for each in objects:
            for other in other_summaries(each, objects, 1):
                request = Turn("user", f"Sum this up in one line.\n\n{each.text}")
                yield Preference((request,), each.summary, other)
