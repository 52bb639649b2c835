"""New examples by translation: texts said in other words, and source texts for targets that have none.

Examples are made once, before preparing, and not anew in every epoch: translating costs more than a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from llmcli.data.augment import CHANGED
from llmcli.data.records import Record, TextPair
from llmcli.errors import InputError

Translate = Callable[[list[str]], list[str]]  # texts to their translations, as many and in the same order
R = TypeVar("R", bound=Record)
T = TypeVar("T")


def reworded(records: Iterable[R], *, there: Translate, back: Translate, at_once: int = 64) -> Iterator[R]:
    """Each record with its texts translated to another language and back (Yu et al. 2018), its labels as they were.

    Only texts that may change and leave the labels true (`llmcli.data.augment`). Left out: what comes back as it was,
    and where a text comes back empty. at_once: records translated together.

    Raises InputError for records whose labels are about single words, and for a translator that loses count.
    """
    for group in _groups(records, at_once):
        fields = CHANGED.get(type(group[0]))
        if fields is None:
            raise InputError(
                f"{type(group[0]).__name__} records cannot be reworded by translation and stay true",
                f"it can be: {', '.join(kind.__name__ for kind in CHANGED)}",
            )
        texts = [text for record in group for text in record.texts()[: len(fields)]]
        changed = iter(_translated(_translated(texts, there), back))
        for record in group:
            new = dict(zip(fields, islice(changed, len(fields)), strict=True))
            emptied = any(getattr(record, name).strip() and not text.strip() for name, text in new.items())
            reborn: R = replace(record, **new)  # type: ignore[type-var]
            if not emptied and reborn != record:
                yield reborn


def synthetic_pairs(targets: Iterable[str], *, translate: Translate, at_once: int = 64) -> Iterator[TextPair]:
    """Pairs of a made-up source and a true target text, for a translator into the targets' language (Sennrich et al.
    2016). translate: out of that language. Left out: what is translated to nothing."""
    for group in _groups(targets, at_once):
        for source, target in zip(_translated(group, translate), group, strict=True):
            if source.strip():
                yield TextPair(source, target)


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


def _translated(texts: list[str], translate: Translate) -> list[str]:
    found = translate(texts)
    if len(found) != len(texts):
        raise InputError(f"the translator gave {len(found)} texts for {len(texts)}")
    return found
