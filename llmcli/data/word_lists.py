"""Lists that word vectors are measured with: pairs of words with a score, and analogy questions.

Both are UTF-8 text with fields between tabs or spaces, one example a line; empty lines and, in similarity lists, lines
that begin with # are passed over. WordSim-353, SimLex-999, questions-words.txt and CA8 are such files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmcli.errors import InputError


def read_similarity(path: Path) -> list[tuple[str, str, float]]:
    """Lines `word word score`. Raises InputError naming file and line of what is none."""
    pairs = []
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        try:
            first, second, score = (field.strip() for field in fields)
            pairs.append((first, second, float(score)))
        except ValueError as err:
            raise InputError(
                f"{path}, line {number}: expected two words and a score, got {line[:80]!r}",
                "a similarity list has three fields, between tabs or spaces",
            ) from err
    if not pairs:
        raise InputError(f"{path} holds no pairs")
    return pairs


def read_analogies(path: Path) -> dict[str, list[tuple[str, str, str, str]]]:
    """Lines `a b c d` below lines `: section`. Raises InputError naming file and line of what is neither."""
    sections: dict[str, list[tuple[str, str, str, str]]] = {}
    section = "questions"
    for number, line in _lines(path):
        if line.startswith(":"):
            section = line[1:].strip() or section
            continue
        words = line.split()
        if len(words) != 4:
            raise InputError(
                f"{path}, line {number}: expected four words, got {len(words)} in {line[:80]!r}",
                "an analogy is `a b c d`: a is to b as c is to d; `: name` begins a section",
            )
        sections.setdefault(section, []).append((words[0], words[1], words[2], words[3]))
    if not sections:
        raise InputError(f"{path} holds no questions")
    return sections


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, stripped, and their numbers from 1."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line := line.strip():
                    yield number, line
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise InputError(f"{path} is not UTF-8: byte 0x{err.object[err.start]:02x} is out of place") from err
