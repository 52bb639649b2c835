"""The labels in a row."""

from __future__ import annotations

from collections.abc import Iterable

from llmcli.data.formats.row import Column, Row
from llmcli.errors import InputError

Names = list[str] | dict[str | int, str]


def labels(
    row: Row, column: Column | None, option: str, *, separator: str | None, names: Names | None
) -> tuple[str, ...]:
    """The labels in a column: one, or with `separator` any number of different ones, also as a list; () without column.

    names: of the classes where the column holds their ids: a list, counted from 0, or a mapping. Raises InputError for
    an empty label, a list where one label is expected, and an id without a name.
    """
    if column is None:
        return ()
    value = row.get(column, option)
    if separator is None:
        if isinstance(value, list):
            raise InputError(
                f'the column "{column}" holds a list', "data.reader.label_separator=, allows several labels"
            )
        return (_named(row.name(column, option), names),)
    parts: Iterable[object] = value if isinstance(value, list) else str("" if value is None else value).split(separator)
    found = (Row(row.where, {str(column): part}).name(column, option) for part in parts if str(part).strip())
    return tuple(dict.fromkeys(_named(each, names) for each in found))


def _named(label: str, names: Names | None) -> str:
    if names is None:
        return label
    by_id = {str(key): name for key, name in (enumerate(names) if isinstance(names, list) else names.items())}
    if label not in by_id:
        raise InputError(f"there is no name for the label {label!r}; data.reader.names has: {', '.join(by_id)}")
    return by_id[label]
