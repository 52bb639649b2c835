"""Quality filters for web text: the rules of Gopher (Rae et al. 2021) and of C4 (Raffel et al. 2020).

Words are what stands between white space; in Chinese and Japanese, which the papers do not treat, single characters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

from llmcli.text.scripts import words

_BULLETS = ("•", "‣", "◦", "●", "▪", "·", "-", "*")
_ELLIPSES = ("...", "…")
_PARAGRAPH = re.compile(r"\n\s*\n")
_CITATION = re.compile(r"\[(?:\d{1,4}|edit|citation needed)\]")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]」』]*+(?=\s|\Z)|[。！？]")


def gopher_quality(
    text: str,
    *,
    min_words: int,
    max_words: int,
    min_mean_word_length: float,
    max_mean_word_length: float,
    max_symbols_per_word: float,
    max_bullet_lines: float,
    max_ellipsis_lines: float,
    min_alphabetic_words: float,
    stop_words: Sequence[str],
    min_stop_words: int,
) -> str | None:
    """Documents that pass the quality rules of Gopher (Rae et al. 2021, appendix A.1.1).

    max_symbols_per_word: hash signs or ellipses for each word. max_bullet_lines, max_ellipsis_lines: shares of lines
    that begin with a bullet or end with an ellipsis. min_alphabetic_words: share of words with a letter in them.
    min_stop_words: how many different `stop_words` must occur.
    """
    found = words(text)
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    if not max(min_words, 1) <= len(found) <= max_words:
        return None
    passes = (
        min_mean_word_length <= sum(map(len, found)) / len(found) <= max_mean_word_length
        and text.count("#") <= max_symbols_per_word * len(found)
        and sum(map(text.count, _ELLIPSES)) <= max_symbols_per_word * len(found)
        and sum(line.startswith(_BULLETS) for line in lines) <= max_bullet_lines * len(lines)
        and sum(line.endswith(_ELLIPSES) for line in lines) <= max_ellipsis_lines * len(lines)
        and sum(any(map(str.isalpha, word)) for word in found) >= min_alphabetic_words * len(found)
        and len(set(stop_words).intersection(map(_bare, found))) >= min_stop_words
    )
    return text if passes else None


def _bare(word: str) -> str:
    """In lower case, without the punctuation around it."""
    return word.lower().strip(".,;:!?\"'()[]{}“”‘’，。、；：？！（）《》「」…")


def gopher_repetition(
    text: str,
    *,
    max_duplicate_lines: float,
    max_duplicate_line_characters: float,
    max_duplicate_paragraphs: float,
    max_duplicate_paragraph_characters: float,
    max_top_ngram: Mapping[int, float],
    max_duplicate_ngrams: Mapping[int, float],
) -> str | None:
    """Documents that do not repeat themselves, by the rules of Gopher (Rae et al. 2021, table A1).

    The first four are the shares of lines and paragraphs (and of their characters) that stood in the text before.
    max_top_ngram: for n, the share of characters in the n-gram that covers most, where it occurs twice or more.
    max_duplicate_ngrams: for n, the share of characters in n-grams that stood in the text before.
    """
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    paragraphs = [stripped for part in _PARAGRAPH.split(text) if (stripped := part.strip())]
    for parts, max_parts, max_characters in (
        (lines, max_duplicate_lines, max_duplicate_line_characters),
        (paragraphs, max_duplicate_paragraphs, max_duplicate_paragraph_characters),
    ):
        again = len(parts) - len(set(parts))
        characters = sum(map(len, parts)) - sum(map(len, set(parts)))
        if again > max_parts * len(parts) or characters > max_characters * sum(map(len, parts)):
            return None
    return None if _repeats_ngrams(words(text), max_top_ngram, max_duplicate_ngrams) else text


def _repeats_ngrams(found: list[str], max_top: Mapping[int, float], max_duplicate: Mapping[int, float]) -> bool:
    """Whether n-grams of words repeat more than allowed.

    An n-gram that occurs twice begins with an (n - 1)-gram that does, so for growing n only such places are looked at
    again; and an n-gram is known by the number of that (n - 1)-gram and its last word, so none is ever built.
    """
    before = [0, *accumulate(map(len, found))]  # characters before each word
    numbers: dict[object, int] = {}
    last = [numbers.setdefault(word, len(numbers)) for word in found]
    gram = list(last)  # the number of what begins at each place
    places = list(range(len(found)))  # where it occurs more than once
    for n in range(2, max((*max_top, *max_duplicate), default=0) + 1):
        numbers = {}
        places = [place for place in places if place + n <= len(found)]
        for place in places:  # in place: gram[place] is needed for this place alone
            gram[place] = numbers.setdefault((gram[place], last[place + n - 1]), len(numbers))
        counts = Counter(gram[place] for place in places)
        places = [place for place in places if counts[gram[place]] > 1]
        if not places:
            return False
        if n in max_top:
            most, size = max((counts[gram[place]], before[place + n] - before[place]) for place in places)
            if most * size > max_top[n] * before[-1]:
                return True
        if n in max_duplicate and _again(n, gram, places, before) > max_duplicate[n] * before[-1]:
            return True
    return False


def _again(n: int, gram: Sequence[int], places: Sequence[int], before: Sequence[int]) -> int:
    """Characters of words in n-grams that stood in the text before, each counted once."""
    seen: set[int] = set()
    characters = counted = 0  # words before `counted` have been counted
    for place in places:
        if gram[place] in seen:
            characters += before[place + n] - before[max(place, counted)]
            counted = place + n
        seen.add(gram[place])
    return characters


def c4_quality(
    text: str,
    *,
    end_marks: Sequence[str],
    min_words_per_line: int,
    max_word_length: int,
    drop_lines: Sequence[str],
    drop_documents: Sequence[str],
    min_sentences: int,
) -> str | None:
    """The lines and documents that the rules of C4 keep (Raffel et al. 2020, section 2.2).

    A line stays that ends in one of `end_marks`, has `min_words_per_line` words, none longer than `max_word_length`
    characters, and holds no phrase of `drop_lines`; marks of Wikipedia such as [1] and [citation needed] go. A document
    goes that holds a phrase of `drop_documents` or has fewer than `min_sentences` sentences left. Phrases are found in
    any case. Not here: C4's list of obscene words (one's own go into drop_documents), its language test (step language)
    and its removal of duplicates.
    """
    small = text.lower()
    if any(phrase.lower() in small for phrase in drop_documents):
        return None
    ends, unwanted = tuple(end_marks), [phrase.lower() for phrase in drop_lines]
    kept = []
    for line in _CITATION.sub("", text).split("\n"):
        line = line.strip()
        if not line.endswith(ends) or any(phrase in line.lower() for phrase in unwanted):
            continue
        found = words(line)
        if len(found) >= min_words_per_line and max(map(len, found)) <= max_word_length:
            kept.append(line)
    page = "\n".join(kept)
    return page if len(_SENTENCE_END.findall(page)) >= min_sentences else None
