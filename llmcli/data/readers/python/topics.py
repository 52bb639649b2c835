"""Topics: what kind of library a docstring comes from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from llmcli.data.readers.python.docstrings import prose
from llmcli.data.readers.python.source import Module, PythonRecords, number
from llmcli.data.records import LabeledText

MIN_PROSE = 60  # characters


class PythonTopics(PythonRecords[LabeledText]):
    """The prose of a docstring and the topic of its package.

    topics: the packages of each topic. per_topic: at most so many records each, in all splits together.
    """

    record = LabeledText
    version = 1

    def __init__(
        self,
        *,
        topics: Mapping[str, Sequence[str]],
        per_topic: int,
        max_characters: int,
        val_fraction: float,
        test_fraction: float,
        seed: int,
    ) -> None:
        self._topics = {package: topic for topic, packages in topics.items() for package in packages}
        self.per_topic = per_topic
        super().__init__(
            packages=list(self._topics),
            max_characters=max_characters,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=seed,
        )

    def fingerprint(self) -> dict[str, object]:
        return {**super().fingerprint(), "topics": self._topics, "per_topic": self.per_topic}

    def examples(self, module: Module) -> Iterator[LabeledText]:
        for each in module.objects:
            if len(text := prose(each.doc)) >= MIN_PROSE:
                yield LabeledText(text, (self._topics[module.package],))

    def records(self, split: str) -> Iterator[LabeledText]:
        shares = {"val": self.val_fraction, "test": self.test_fraction}
        limit = round(self.per_topic * shares.get(split, 1 - sum(shares.values())))
        by_topic: defaultdict[str, list[LabeledText]] = defaultdict(list)
        for record in super().records(split):
            by_topic[record.labels[0]].append(record)
        chosen = (sorted(each, key=lambda record: number(record.text))[:limit] for each in by_topic.values())
        # mixed, since a reader of the file would otherwise see one topic after the other
        return iter(sorted((record for each in chosen for record in each), key=lambda record: number(record.text)))
