"""JSON: a list of objects, or an object that holds one; read object by object, whatever the size of the file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from llmcli.data.decode import LONGEST
from llmcli.data.formats import json_lines
from llmcli.data.formats.row import Row
from llmcli.data.reader import Flaw
from llmcli.errors import InputError

_SPACE = " \t\n\r"


def read(blocks: Iterable[str], name: str, *, root: str | None) -> Iterator[Row | Flaw]:
    """The objects of a list.

    root: the key of the list in an object; None: its only list. A file with an object on every line is read as JSON
    lines. What is no object is a flaw. Raises InputError for text that is no JSON, for a file without such a list and
    for an object of more than 16,777,216 characters.
    """
    text = _Text(blocks, name)
    start = text.peek()
    if start == "[":
        yield from _listed(text, name)
    elif start == "{":
        if (first := text.first_line()) is not None:
            yield from json_lines.read(first, name)
        else:
            yield from _inside(text, name, root)
    elif start:
        raise InputError(f"{name} is no JSON: it begins with {start!r}, not with a list or an object")


def _inside(text: _Text, name: str, root: str | None) -> Iterator[Row | Flaw]:
    """The list under a key of the object that begins here."""
    keys: list[str] = []
    lists: list[str] = []
    text.skip("{")
    while text.peek() != "}":
        key = text.value()
        text.skip(":")
        keys.append(str(key))
        is_list = text.peek() == "["
        if is_list and (key == root or (root is None and not lists)):
            yield from _listed(text, name)
        else:
            text.value()
        if is_list:
            lists.append(str(key))
        if text.peek() != "}":
            text.skip(",")
    text.skip("}")
    if root is not None and root not in lists:
        what = "is no list" if root in keys else "is not there"
        raise InputError(
            f'{name}: the key "{root}" {what}; the keys are: {", ".join(keys) or "none"}', "data.reader.root=KEY"
        )
    if not lists:
        raise InputError(f"{name} holds no list of records; its keys are: {', '.join(keys) or 'none'}")
    if root is None and len(lists) > 1:
        raise InputError(f"{name} holds several lists: {', '.join(lists)}", "data.reader.root=KEY chooses one")


def _listed(text: _Text, name: str) -> Iterator[Row | Flaw]:
    text.skip("[")
    number = 0
    while text.peek() != "]":
        number += 1
        where = f"{name}, record {number:,}"
        value = text.value()
        if isinstance(value, dict):
            yield Row(where, value)
        else:
            yield Flaw(where, f"a record must be an object with fields, not {str(value)[:20]}")
        if text.peek() != "]":
            text.skip(",")
    text.skip("]")


class _Text:
    """JSON text that is read on as it is needed."""

    def __init__(self, blocks: Iterable[str], name: str) -> None:
        self.blocks, self.name = iter(blocks), name
        self.held, self.at = "", 0
        self.decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space; nothing at the end."""
        while True:
            while self.at < len(self.held):
                if self.held[self.at] not in _SPACE:
                    return self.held[self.at]
                self.at += 1
            if not self._more():
                return ""

    def skip(self, expected: str) -> None:
        found = self.peek()
        if found != expected:
            raise self._broken(f"expected {expected!r}, found {found!r}" if found else "it ends too early")
        self.at += 1

    def value(self) -> Any:
        """The value that begins here. A number or word is whole only where something follows it."""
        self.peek()
        wanted = 1 << 16
        while True:
            try:
                value, end = self.decoder.raw_decode(self.held, self.at)
            except json.JSONDecodeError as err:
                problem = err.msg
            except (RecursionError, ValueError) as err:
                raise self._broken(str(err)) from err
            else:
                if end < len(self.held) or not self._more():
                    self.at = end
                    return value
                continue
            if len(self.held) - self.at > LONGEST:
                raise self._broken(f"{problem}, or a record of more than {LONGEST:,} characters")
            # twice as much each time, so that a long record is not parsed from its beginning too often
            before = len(self.held) - self.at
            while len(self.held) - self.at < wanted and self._more():
                pass
            wanted = 2 * (len(self.held) - self.at)
            if wanted == 2 * before:
                raise self._broken(problem)

    def first_line(self) -> Iterator[str] | None:
        """All the text, where its first line is an object and another begins after it: JSON lines by another name."""
        while "\n" not in self.held and len(self.held) <= LONGEST and self._more():
            pass
        line, _, rest = self.held[self.at :].partition("\n")
        while not rest.strip(_SPACE) and self._more():
            rest = self.held[self.at :].partition("\n")[2]
        if not rest.lstrip(_SPACE).startswith("{") or isinstance(json_lines.row(line, ""), Flaw):
            return None
        return self._rest()

    def _rest(self) -> Iterator[str]:
        yield self.held
        yield from self.blocks

    def _more(self) -> bool:
        block = next(self.blocks, "")
        self.held, self.at = self.held[self.at :] + block, 0
        return bool(block)

    def _broken(self, problem: str) -> InputError:
        near = self.held[self.at : self.at + 40].replace("\n", " ")
        return InputError(
            f"{self.name} is no JSON: {problem}, at {near!r}" if near else f"{self.name} is no JSON: {problem}"
        )
