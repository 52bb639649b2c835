"""Words by rule, for English and other languages with spaces.

White space always separates. Between it a part is, the first that fits:

1. a web address (http, https, ftp, www) without the punctuation after it, or an e-mail address;
2. an abbreviation with its stops: U.S., e.g., Mr., Prof.;
3. a number with its points, colons, slashes and commas between thousands: 3.14, 12:30, 1/2, 1,000, v1.2.3;
4. a word: letters, digits, underscores and accents, with hyphens, apostrophes and & inside: well-known, O'Brien, AT&T.
   contractions="whole" leaves don't and Mary's so; "treebank" takes n't, 's, 'm, 'd, 'll, 're and 've for words of
   their own, as the Penn Treebank does (do n't, Mary 's); unlike there, cannot and gonna stay whole, so that words
   can be put together again;
5. an ellipsis (...) or a dash of two hyphens (--);
6. one character: punctuation, a symbol, an emoji, a character of a script without spaces.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Literal, get_args

from llmcli.errors import InputError
from llmcli.text.segment.base import UNSPACED, Segmenter
from llmcli.text.segment.characters import PLAIN_UNSPACED, grapheme, run

Contractions = Literal["whole", "treebank"]

_TITLES = """
mr mrs ms dr prof rev hon gen col capt lt sgt cmdr sen gov st mt messrs e.g i.e cf viz vs fig figs eq eqs vol vols pp
approx resp
"""
_SHORT_FORMS = """
etc al jr sr inc ltd co corp bros dept univ assn ave blvd rd jan feb apr jun jul aug sept oct nov dec tue thu fri ph.d
m.d b.a m.a
"""
# written with a stop: those that more of the sentence follows, and those that may also end it
TITLES, SHORT_FORMS = frozenset(_TITLES.split()), frozenset(_SHORT_FORMS.split())

_END = rf"(?![^\W{UNSPACED}])"
_URL = r"(?i:(?:https?|ftp)://|www\.)[!#-;=?-\[\]_a-z~]*[\w/=&#%~+$@-]"
_EMAIL = r"[A-Za-z0-9_][A-Za-z0-9_.%+-]{0,63}+@(?:[A-Za-z0-9-]{1,63}+\.){1,8}[A-Za-z]{2,24}" + _END
_INITIALS = rf"(?:[A-Za-z]\.){{2,8}}{_END}"
_NUMBER = rf"[^\W{UNSPACED}]*[0-9](?:[.:/][0-9]+|,[0-9]{{3}}(?![0-9]))+"
_CLITIC = rf"['’](?i:s|m|d|ll|re|ve){_END}"
_NOT = rf"[nN]['’][tT]{_END}"


class EnglishWords(Segmenter):
    """Words, numbers and marks by the rule at the top of this file."""

    def __init__(self, *, contractions: Contractions) -> None:
        if contractions not in get_args(Contractions):
            raise InputError(f"contractions ({contractions}) must be one of {', '.join(get_args(Contractions))}")
        self.contractions = contractions
        self._pattern = _pattern(contractions)

    def __call__(self, text: str) -> list[str]:
        return self._pattern.findall(text)

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in self._pattern.finditer(text)]

    def settings(self) -> dict[str, Any]:
        return {"contractions": self.contractions}


@cache
def _pattern(contractions: Contractions) -> re.Pattern[str]:
    short = "|".join(map(re.escape, sorted(TITLES | SHORT_FORMS, reverse=True)))
    abbreviation = rf"(?i:{short})\.{_END}"
    letters = run()
    if contractions == "treebank":
        inner = rf"(?:[-&]|['’](?!(?i:s|m|d|ll|re|ve|t){_END}))"
        word = rf"{_NOT}|{_CLITIC}|[^\W{UNSPACED}]+?(?={_NOT})|{letters}(?:{inner}{letters})*+"
    else:
        word = rf"{letters}(?:[-&'’]{letters})*+"
    # most parts stand between spaces, or are marks that begin nothing longer: the rest of the rule is for the others
    common = rf"[^\W{UNSPACED}]++(?=\s|[,;)]\s)|[!\"#$%()*+,/:;<=>?\[\]](?=[\w\s])"
    rest = f"{_URL}|{_EMAIL}|{_INITIALS}|{abbreviation}|{_NUMBER}(?:-{letters})*+|{word}|\\.\\.\\.|--|{grapheme()}"
    return re.compile(rf"{common}|{PLAIN_UNSPACED}|(?!\s)(?:{rest})")
