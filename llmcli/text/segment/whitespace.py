"""What stands between white space."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmcli.text.segment.base import Segmenter

_PART = re.compile(r"\S+")


class Whitespace(Segmenter):
    """Cuts at white space alone, for text whose words are already set apart (WikiText, Penn Treebank)."""

    def __call__(self, text: str) -> list[str]:
        return text.split()

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in _PART.finditer(text)]

    def join(self, parts: Sequence[str]) -> str:
        return " ".join(parts)
