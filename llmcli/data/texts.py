"""The texts of labelled examples as documents, without their labels: what a language model learns from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmcli.data.records import LabeledPair, LabeledText, Text
from llmcli.data.source import Source, TextSource, Wrapped
from llmcli.errors import InputError

HAVE_TEXTS = (LabeledText, LabeledPair)  # the kinds of record whose texts stand for themselves


class TextsOf(Wrapped[Text], TextSource):
    """Each text of another source's examples is a document, in the same splits, ended by an end-of-text token.

    Raises InputError for records whose texts are not such: the words of a sentence, the two sides of a translation.
    """

    def __init__(self, source: Source[Any]) -> None:
        super().__init__(eos=True)
        if not issubclass(source.record, HAVE_TEXTS):
            kinds = " and ".join(each.__name__ for each in HAVE_TEXTS)
            raise InputError(f"prepare.as_text makes documents of {kinds} records; this is {source.record.__name__}")
        self.source = source

    def fingerprint(self) -> dict[str, Any]:
        return {"texts_of": self.source.fingerprint()}

    def records(self, split: str) -> Iterator[Text]:
        return (Text(text) for record in self.source.records(split) for text in record.texts())
