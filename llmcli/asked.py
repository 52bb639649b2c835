"""What a task's `predict` is asked: texts, or several texts by name where the task needs more than one.

A way to ask is the names of what is told: ("text",), ("question", "context"). A task may have several, the usual one
first. What is asked in the way ("text",) is that text; what is asked in another is a dict of its names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmcli.errors import InputError

Ways = Sequence[tuple[str, ...]]
Asked = str | dict[str, Any]

ONE_TEXT = ("text",)
LIST = "choices"  # the one name with a list of texts
# what `llm predict` takes on the command line, and the names these stand for
FLAGS = {
    "text": "text",
    "question": "question",
    "context": "context",
    "first": "first",
    "second": "second",
    "choice": LIST,
}


def usage(way: tuple[str, ...]) -> str:
    """The flags that ask in this way: `--question "..." --context "..."`."""
    flags = {name: flag for flag, name in FLAGS.items()}
    return " ".join(f'--{flags[name]} "..."' for name in way)


def of_flags(flags: Mapping[str, Sequence[str]], ways: Ways) -> Iterator[Asked]:
    """What the command line asks: each flag once, or as often as the most frequent; all choices are of one question.

    Raises InputError for flags that are no way to ask the task, and for counts that do not go together.
    """
    given = {FLAGS[flag]: list(values) for flag, values in flags.items() if values}
    if not given:
        return
    way = _way(given, ways, f"--{' and --'.join(flag for flag in flags if flags[flag])}")
    columns = [[given[name]] if name == LIST else given[name] for name in way]
    count = max(map(len, columns))
    for name, column in zip(way, columns, strict=True):
        if len(column) not in (1, count):
            raise InputError(f"--{name} stands there {len(column)} times, other texts {count} times")
    for row in range(count):
        yield _asked(way, [column[row if len(column) > 1 else 0] for column in columns])


def of_line(line: str, ways: Ways, where: str) -> Asked | None:
    """What a line of a file asks: a text, a JSON object with the names, or texts with tabs between them.

    None for an empty line where that is no text. Raises InputError, with `where`, for a line that is none of these.
    """
    plain = ONE_TEXT in ways
    if line.lstrip().startswith("{"):
        try:
            value = json.loads(line)
        except ValueError as err:
            if not plain:
                raise InputError(f"{where} is not JSON: {err}") from err
            return line
        return of_mapping(value, ways, where)
    if plain:
        return line
    if not line.strip():
        return None
    texts = line.split("\t")
    way = next((each for each in ways if _fits(each, texts)), None)
    if way is None:
        names = " and ".join(ways[0])
        raise InputError(
            f"{where} has {_texts(len(texts))} where this run is asked with {names}",
            f"a tab between them, or lines of JSON: {_example(ways[0])}",
        )
    if way[-1] == LIST:
        return _asked(way, [*texts[: len(way) - 1], texts[len(way) - 1 :]])
    return _asked(way, texts)


def of_mapping(given: Mapping[str, Any], ways: Ways, where: str) -> Asked:
    """What a dict asks, whatever else is in it. Raises InputError, with `where`, for a missing name or no text."""
    way = max((each for each in ways if set(each) <= given.keys()), key=len, default=None)
    if way is None:
        close = max(ways, key=lambda each: len(given.keys() & set(each)))
        missing = next(name for name in close if name not in given)
        raise InputError(f'{where} has no "{missing}": this run is asked with {_said(ways)}', _example(close))
    for name in way:
        value = given[name]
        texts = value if name == LIST and isinstance(value, list | tuple) else [value]
        if not all(isinstance(text, str) for text in texts) or (name == LIST and len(texts) < 2):
            wanted = "a list of two texts or more" if name == LIST else "a text"
            raise InputError(f'{where}: "{name}" must be {wanted}, not {json.dumps(value, ensure_ascii=False)[:60]}')
    return _asked(way, [given[name] for name in way])


def _asked(way: tuple[str, ...], values: Sequence[Any]) -> Asked:
    if way == ONE_TEXT:
        text: str = values[0]
        return text
    return dict(zip(way, values, strict=True))


def _way(given: Mapping[str, list[str]], ways: Ways, said: str) -> tuple[str, ...]:
    for way in ways:
        if set(way) == given.keys():
            if LIST in given and len(given[LIST]) < 2:
                raise InputError("a question needs two choices or more", "--choice TEXT --choice TEXT")
            return way
    close = max(ways, key=lambda way: len(given.keys() & set(way)))
    missing = [name for name in close if name not in given]
    if given.keys() & set(close) and missing:
        raise InputError(f"{said} alone is not enough: this run is asked with {_said(ways)}", usage(close))
    raise InputError(f"{said} is not what this run is asked with: {_said(ways)}", usage(close))


def _fits(way: tuple[str, ...], texts: Sequence[str]) -> bool:
    return len(texts) > len(way) if way[-1] == LIST else len(texts) == len(way)


def _said(ways: Ways) -> str:
    return ", or ".join(" and ".join(way) for way in ways)


def _texts(count: int) -> str:
    return "1 text" if count == 1 else f"{count} texts"


def _example(way: tuple[str, ...]) -> str:
    return json.dumps({name: ["...", "..."] if name == LIST else "..." for name in way})
