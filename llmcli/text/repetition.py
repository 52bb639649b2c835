"""Characters and lines that repeat themselves."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from llmcli.errors import InputError


def limit_repeated_characters(text: str, *, max_run: int) -> str:
    """At most `max_run` of the same character in a row: soooooo -> sooo, 哈哈哈哈哈 -> 哈哈哈.

    Digits and white space are left alone: 1000000 is a number, and indentation has a meaning. Raises InputError for
    max_run below 1.
    """
    _check_at_least_one("clean.repeated_characters.max_run", max_run)
    return _run(max_run).sub(lambda found: found[0] if found[1].isdigit() else found[1] * max_run, text)


@cache
def _run(longest: int) -> re.Pattern[str]:
    return re.compile(rf"(\S)\1{{{longest},}}+")


def drop_repeated_lines(text: str, *, max_run: int, max_share: float | None) -> str:
    """Lines that repeat the one before, and boilerplate that comes back all over the text.

    max_run: how many equal lines may follow each other. max_share: a line that makes up more than this share of the
    lines stays only where it comes first; null keeps them all. Blank lines are neither dropped nor counted. Raises
    InputError for max_run below 1 and a share outside 0 to 1.
    """
    _check_at_least_one("clean.repeated_lines.max_run", max_run)
    if max_share is not None and not 0 <= max_share <= 1:
        raise InputError(f"clean.repeated_lines.max_share ({max_share}) must be between 0 and 1, or null")
    lines = text.split("\n")
    counts = Counter(lines)
    if len(counts) == len(lines):
        return text
    real = [line for line in lines if line and not line.isspace()]
    limit = len(real) if max_share is None else max_share * len(real)
    kept: list[str] = []
    seen: set[str] = set()
    run = 0
    before = None
    for line in lines:
        run = run + 1 if line == before else 1
        before = line
        if line and not line.isspace():
            if run > max_run or (line in seen and counts[line] > limit):
                continue
            seen.add(line)
        kept.append(line)
    return "\n".join(kept)


def _check_at_least_one(key: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{key} ({value}) must be at least 1")
