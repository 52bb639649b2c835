"""English words with their parts of speech, by the Hanover Tagger (Wartena 2019), whose package holds its model."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from llmcli.errors import require
from llmcli.text.segment.english import EnglishWords


def tagged(sentence: str) -> list[tuple[str, str]]:
    """The words of `EnglishWords(contractions="treebank")`, each with its tag of the British National Corpus (CLAWS 5):
    NN1 noun, VVD verb in the past, AJ0 adjective, PNP pronoun, PUN mark, ...

    Raises InputError without the package hanta.
    """
    words, tagger = _loaded()
    return [(word, tag) for word, _, tag in tagger.tag_sent(words(sentence))]


@cache
def _loaded() -> tuple[EnglishWords, Any]:
    require("HanTa", extra="tags", purpose="tagging English parts of speech")
    tagger = importlib.import_module("HanTa.HanoverTagger").HanoverTagger("morphmodel_en.pgz")
    return EnglishWords(contractions="treebank"), tagger
