"""JSON lines: an object on every line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from llmcli.data.decode import LONGEST, lines
from llmcli.data.formats.row import Row
from llmcli.data.reader import Flaw


def read(blocks: Iterable[str], name: str) -> Iterator[Row | Flaw]:
    """The objects of a file; empty lines are passed over. What is no object is a flaw, and so is a longer line than
    16,777,216 characters. `name`: of the file, for messages."""
    for number, line in enumerate(lines(blocks), start=1):
        if line.strip():
            yield row(line, f"{name}, line {number:,}")


def row(line: str, where: str) -> Row | Flaw:
    if len(line) > LONGEST:
        return Flaw(where, f"a line of more than {LONGEST:,} characters")
    try:
        value = json.loads(line)
    except json.JSONDecodeError as err:
        return Flaw(where, f"not a JSON record: {err.msg} at column {err.colno:,}")
    except (RecursionError, ValueError) as err:  # nested without end; a number with thousands of digits
        return Flaw(where, f"not a JSON record: {err}")
    if not isinstance(value, dict):
        return Flaw(where, f"a record must be an object with fields, not {line.strip()[:20]}")
    return Row(where, value)
