"""Steps applied to running text, whose spaces are kept, and to tagged tokens, whose tags follow them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

from llmcli.text.augment.base import Edit, Step, edited
from llmcli.text.segment.base import Segmenter

MASK = "<mask>"  # how a hidden word is written


def to_text(text: str, steps: Iterable[Step], segmenter: Segmenter, rng: random.Random) -> list[str | None]:
    """The changed text, in the parts between hidden words; None stands for each of those.

    Between two words that followed each other stands what stood there before, between others what the segmenter puts
    there.
    """
    spans = segmenter.spans(text)
    if not spans:
        return [text]
    words = [text[start:end] for start, end in spans]
    edits = edited(words, steps, rng)
    pieces: list[str | None] = [text[: spans[0][0]]]
    for place, edit in enumerate(edits):
        if place:
            _append(pieces, _between(edits[place - 1], edit, text, spans, words, segmenter))
        _append(pieces, edit.word)
    _append(pieces, text[spans[-1][1] :])
    return [piece for piece in pieces if piece != ""]


def to_tags(
    tokens: Sequence[str], tags: Sequence[str], steps: Iterable[Step], rng: random.Random
) -> tuple[list[str | None], list[str]]:
    """The changed tokens and their tags, valid where they were: spans of entities in IOB2, or one tag for each token.

    A token takes its tag along. The tokens of an entity are moved together, and two entities never become one. A new
    token belongs to no entity; where tags are no spans it has that of the word that it was made from.
    """
    if not _are_spans(tags):
        edits = edited(tokens, steps, rng)
        return [edit.word for edit in edits], [tags[edit.source] for edit in edits]
    entities = _entities(tags)
    edits = edited(tokens, steps, rng, together=entities)
    owners = [None if edit.new else entities[edit.source] for edit in edits]
    found = []
    for last, owner in pairwise([None, *owners]):
        found.append("O" if owner is None else ("I-" if owner == last else "B-") + tags[owner][2:])
    return [edit.word for edit in edits], found


def entity_spans(tags: Sequence[str]) -> list[tuple[int, int]]:
    """Where the entities of IOB2 tags stand, first token and one past the last; [] where tags are no spans."""
    if not _are_spans(tags):
        return []
    owners = _entities(tags)
    starts = [place for place, owner in enumerate(owners) if owner == place]
    return [(start, start + owners.count(start)) for start in starts]


def _are_spans(tags: Sequence[str]) -> bool:
    return all(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags)


def _entities(tags: Sequence[str]) -> list[int | None]:
    """For each tag of IOB2 the place where its entity begins; None outside of all."""
    found: list[int | None] = []
    for place, (last, tag) in enumerate(pairwise(["O", *tags])):
        goes_on = tag[:2] == "I-" and last[2:] == tag[2:] and last != "O"
        found.append(None if tag == "O" else found[-1] if goes_on else place)
    return found


def _append(pieces: list[str | None], piece: str | None) -> None:
    if piece is None or pieces[-1] is None:
        pieces.append(piece)
    else:
        pieces[-1] += piece


def _between(
    one: Edit, other: Edit, text: str, spans: list[tuple[int, int]], words: list[str], segmenter: Segmenter
) -> str:
    if other.source == one.source + 1 and not one.new and not other.new:
        return text[spans[one.source][1] : spans[other.source][0]]
    first, second = (words[each.source] if each.word is None else each.word for each in (one, other))
    return segmenter.join([first, second])[len(first) : -len(second)]
