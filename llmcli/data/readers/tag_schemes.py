"""The ways in which tags mark spans, all brought to IOB2: B-X begins a span of kind X, I-X goes on, O is outside.

| scheme | one token | several tokens | where |
|---|---|---|---|
| IOB1 | I | I I I, the first is B only right after a span of the same kind | Ramshaw and Marcus 1995, CoNLL-2003 |
| IOB2 | B | B I I | Tjong Kim Sang and Veenstra 1999 |
| BIOES | S | B I E | also BILOU with L and U for E and S |
| BMES | S | B M E | Chinese corpora; O is outside there too (BMEO) |
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# prefixes: those that begin a span, go on inside one, end one, and are one
_ROLES = {
    "iob1": ("B", "I", "", ""),
    "iob2": ("B", "I", "", ""),
    "bioes": ("B", "I", "EL", "SU"),
    "bmes": ("B", "M", "E", "S"),
}
SCHEMES = ("auto", "none", *_ROLES)
OUTSIDE = "O"
_TAG = re.compile(r"([BIOMESLU])-(.+)", re.DOTALL)


def to_iob2(tags: Sequence[str], scheme: str) -> tuple[str, ...]:
    """Tags of one sentence in IOB2.

    scheme: "auto" takes every prefix for what it means in any scheme, and what goes on where nothing began for a
    beginning, as conlleval does; tags without a prefix stay as they are. "none" leaves all tags as they are. The others
    allow what they allow. Raises ValueError, with the place of the tag from 1, for a tag that the scheme has not, and
    for spans that do not begin or end as it says.
    """
    if scheme == "none":
        return tuple(tags)
    return _loosely(tags) if scheme == "auto" else _strictly(tags, scheme)


def _loosely(tags: Sequence[str]) -> tuple[str, ...]:
    made, open_kind = [], None
    for tag in tags:
        found = _TAG.fullmatch(tag)
        if found is None:
            made.append(tag)
            open_kind = None
            continue
        prefix, kind = found.groups()
        goes_on = prefix in "IMEL" and kind == open_kind
        made.append(f"{'I' if goes_on else 'B'}-{kind}")
        open_kind = None if prefix in "ELSU" else kind
    return tuple(made)


def _strictly(tags: Sequence[str], scheme: str) -> tuple[str, ...]:
    begins, inside, ends, single = _ROLES[scheme]
    made: list[str] = []
    open_kind: str | None = None
    for place, tag in enumerate(tags, start=1):
        prefix, kind = ("", "") if tag == OUTSIDE else _parts(tag, place, scheme)
        if prefix and prefix not in begins + inside + ends + single:
            raise ValueError(f"tag {place}, {tag}: {scheme} has no {prefix}-")
        goes_on = prefix != "" and prefix in inside + ends
        if scheme == "iob1":
            goes_on = goes_on and kind == open_kind
        elif goes_on and kind != open_kind:
            raise ValueError(f"tag {place}, {tag}, goes on with {kind} where none began")
        elif ends and open_kind is not None and not goes_on:
            raise ValueError(f"tag {place}, {tag}, comes before the span of {open_kind} has ended")
        made.append(f"{'I' if goes_on else 'B'}-{kind}" if prefix else OUTSIDE)
        open_kind = None if not prefix or prefix in ends + single else kind
    if ends and open_kind is not None:
        raise ValueError(f"the span of {open_kind} that stands last has no end")
    return tuple(made)


def _parts(tag: str, place: int, scheme: str) -> tuple[str, str]:
    found = _TAG.fullmatch(tag)
    if found is None:
        raise ValueError(f"tag {place}, {tag!r}, is no tag of {scheme}")
    return found[1], found[2]
