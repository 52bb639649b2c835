"""Conversations about an object: what it does, then what its parameters are."""

from __future__ import annotations

from collections.abc import Iterator

from llmcli.data.readers.python.docstrings import parameters, summary_and_body
from llmcli.data.readers.python.source import Module, PythonRecords, number
from llmcli.data.records import Conversation, Turn

MAX_PARAMETERS = 3
FIRST = ("What does this do?", "Explain this in one line.", "What is this for?")
NEXT = ("And what is {}?", "What about {}?", "What does {} mean?")


class PythonChat(PythonRecords[Conversation]):
    """The questions of a user who is shown a signature, answered from the docstring."""

    record = Conversation
    version = 1

    def examples(self, module: Module) -> Iterator[Conversation]:
        for each in module.objects:
            parts = summary_and_body(each.doc)
            known = [parameter for parameter in parameters(each.doc) if parameter.meaning][:MAX_PARAMETERS]
            if not parts or not known:
                continue
            asked = f"{FIRST[number(each.name) % len(FIRST)]}\n\n{each.signature}"
            turns = [Turn("user", asked), Turn("assistant", parts[0])]
            for place, parameter in enumerate(known):
                start, stop = parameter.meaning or (0, 0)
                asked = NEXT[(number(each.name) + place) % len(NEXT)].format(parameter.name)
                answer = " ".join(each.doc[start:stop].split())
                turns += [Turn("user", asked), Turn("assistant", f"{answer[0].upper()}{answer[1:]}.")]
            yield Conversation(tuple(turns))
