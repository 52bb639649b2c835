"""Parts of speech as labels for text that has none: a tagger's own, so a model learns to tag as that does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llmcli.data.decode import check_encoding
from llmcli.data.readers.text_lines import KEY, numbered
from llmcli.data.records import TaggedTokens
from llmcli.text import english_tags
from llmcli.text.segment.chinese import ChineseWords
from llmcli.text.segment.sentences import Sentences


@dataclass(frozen=True, kw_only=True)
class EnglishPartsOfSpeech:
    """The sentences of every line of text files, tagged by `english_tags.tagged`. encoding: "auto" finds it out."""

    record: ClassVar[type[TaggedTokens]] = TaggedTokens

    encoding: str

    def __post_init__(self) -> None:
        check_encoding(self.encoding, f"{KEY}.encoding")

    def read(self, files: Sequence[Path]) -> Iterator[TaggedTokens]:
        return _tagged(files, self.encoding, english_tags.tagged)


@dataclass(frozen=True, kw_only=True)
class ChinesePartsOfSpeech:
    """The sentences of every line of text files, tagged by `ChineseWords.tagged` with its options."""

    record: ClassVar[type[TaggedTokens]] = TaggedTokens

    hmm: bool
    user_words: list[str]
    encoding: str

    def __post_init__(self) -> None:
        check_encoding(self.encoding, f"{KEY}.encoding")

    def read(self, files: Sequence[Path]) -> Iterator[TaggedTokens]:
        return _tagged(files, self.encoding, ChineseWords(hmm=self.hmm, user_words=self.user_words).tagged)


def _tagged(
    files: Sequence[Path], encoding: str, tag: Callable[[str], list[tuple[str, str]]]
) -> Iterator[TaggedTokens]:
    sentences = Sentences()
    for _, _, line in numbered(files, encoding):
        for sentence in sentences(line):
            words, tags = zip(*tag(sentence), strict=True)
            yield TaggedTokens(words, tags)
