"""Pairs: does this description belong to this signature? The others come from the same module."""

from __future__ import annotations

from collections.abc import Iterator

from llmcli.data.readers.python.docstrings import prose
from llmcli.data.readers.python.source import Module, PythonRecords, number
from llmcli.data.records import LabeledPair

MIN_PROSE = 40  # characters


class PythonPairs(PythonRecords[LabeledPair]):
    """A signature and the prose of a docstring, in half of the cases its own ("same"), else another's ("different")."""

    record = LabeledPair
    version = 1

    def examples(self, module: Module) -> Iterator[LabeledPair]:
        proses = {each.name: (each.signature, prose(each.doc)) for each in module.objects}
        texts = {name: said for name, said in proses.items() if len(said[1]) >= MIN_PROSE}
        # each text is used once: neighbours in an order drawn by their names keep their own or trade them
        names = sorted(texts, key=number)
        for first, second in zip(names[::2], names[1::2], strict=False):
            (signature, text), (other_signature, other) = texts[first], texts[second]
            same = number(f"{first} {second}") % 2 == 0
            label = "same" if same else "different"
            yield LabeledPair(signature, text if same else other, (label,))
            yield LabeledPair(other_signature, other if same else text, (label,))
