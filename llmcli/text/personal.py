"""What points at a person or a place on the net: URLs, e-mail addresses, phone, ID and card numbers, IP addresses.

Patterns see ASCII digits (the step half_width makes them so) and take time linear in the text: every run is bounded,
possessive, or begins only where nothing of its kind stands before.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Literal

from llmcli.errors import InputError

Kind = Literal["id", "card", "phone", "ip"]
KINDS: tuple[Kind, ...] = ("id", "card", "phone", "ip")

# Letters beyond ASCII belong to a URL up to where East Asian scripts begin, because Chinese follows it without a space.
_URL = re.compile(
    r"[hHfFwW](?<![a-zA-Z0-9@]{2})(?:(?<=[hH])[tT][tT][pP][sS]?://|(?<=[fF])[tT][pP]://|(?<=[wW])[wW][wW]\.)"
    r"(?=[\w\[])[!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z|~\u00c0-\u1fff]++"
)
_EMAIL = re.compile(
    r"[A-Za-z0-9._%+-](?<![A-Za-z0-9._%+-]{2})[A-Za-z0-9._%+-]{0,63}+@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}"
)


def mask_urls(text: str, *, replacement: str) -> str:
    """http, https, ftp and www addresses become `replacement`; the punctuation of the sentence around them stays."""
    if "://" not in text and "www." not in text.lower():
        return text
    return _URL.sub(lambda found: replacement + found[0][len(_trimmed(found[0])) :], text)


def _trimmed(url: str) -> str:
    """Without what ends the sentence: closing marks, and brackets that were opened before the address."""
    surplus = {")": url.count(")") - url.count("("), "]": url.count("]") - url.count("[")}
    end = len(url)
    while url[end - 1] in ".,;:!?'*|" or surplus.get(url[end - 1], 0) > 0:
        end -= 1
        if url[end] in surplus:
            surplus[url[end]] -= 1
    return url[:end]


def mask_emails(text: str, *, replacement: str) -> str:
    """E-mail addresses become `replacement`."""
    return _EMAIL.sub(lambda _: replacement, text) if "@" in text else text


def mask_personal(text: str, *, kinds: Sequence[Kind], replacement: str) -> str:
    """Numbers that point at a person become `replacement`, in which {kind} is id, card, phone or ip.

    id: Chinese resident ID numbers with their check digit (GB 11643-1999). card: 13 to 19 digits that pass the Luhn
    check (ISO/IEC 7812). phone: international (+44 ...), Chinese mobile, landline and 400 numbers, North American ones.
    ip: addresses of version 4 and 6. Longer numbers are looked for first, whatever the order of `kinds`. Raises
    InputError for another kind.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"clean.personal.kinds: there is no kind {unknown[0]}", f"the kinds are: {', '.join(KINDS)}")
    long = _LONG_NUMBER.search(text)
    for kind in KINDS:
        if kind in kinds and (long or kind == "ip"):
            for pattern, check in _PATTERNS[kind]:
                text = pattern.sub(_Mask(check, replacement.replace("{kind}", kind)), text)
    return text


class _Mask:
    """The replacement for what passes a check; the rest stays."""

    def __init__(self, check: Callable[[str], bool], replacement: str) -> None:
        self.check, self.replacement = check, replacement

    def __call__(self, found: re.Match[str]) -> str:
        return self.replacement if self.check(found[0]) else found[0]


def _is_resident_id(number: str) -> bool:
    """Whether 18 characters are a Chinese resident ID number: a real birthday and the check digit (ISO 7064, 11-2)."""
    try:
        date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def _is_card_number(number: str) -> bool:
    """The Luhn check over the digits of `number`, whatever stands between them."""
    digits = [int(char) for char in reversed(number) if char.isdigit()]
    doubled = (2 * digit - 9 * (digit > 4) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(char.isdigit() for char in address)  # a::b is more often C++ than an address


def _any(number: str) -> bool:
    return True


def _number(pattern: str) -> re.Pattern[str]:
    """A number on its own: no letter, digit or decimal point before it, no letter or digit after it.

    The pattern's first item, one character, is what the regex engine looks for quickly; the lookbehinds follow it.
    """
    first, _, rest = pattern.partition(" ")
    return re.compile(rf"{first}(?<![A-Za-z0-9_][0-9+])(?<![0-9]\.[0-9]){rest}(?![A-Za-z0-9_])")


_LONG_NUMBER = re.compile(r"[0-9](?:[ .()（）/-]{0,2}[0-9]){6}")
_PATTERNS: dict[Kind, tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...]] = {
    "id": ((_number(r"[1-9] [0-9]{5}(?:18|19|20)[0-9]{9}[0-9Xx]"), _is_resident_id),),
    "card": (
        (_number(r"[2-6] [0-9]{12,18}"), _is_card_number),
        # in groups; the longest first, because a date or code may follow
        (_number(r"[2-6] [0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}\1[0-9]{1,3}"), _is_card_number),
        (_number(r"[2-6] [0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}"), _is_card_number),
        (_number(r"3 [0-9]{3}([ -])[0-9]{6}\1[0-9]{4,5}"), _is_card_number),
    ),
    "phone": (
        (_number(r"\+ [1-9](?:[ .()/-]{0,2}[0-9]){6,14}"), _any),
        (_number(r"[08] (?:086|6)[ -]?1[3-9][0-9](?:[ -]?[0-9]{4}){2}"), _any),  # a Chinese mobile
        (_number(r"1 [3-9][0-9](?:[ -]?[0-9]{4}){2}"), _any),
        (_number(r"[(（] 0[1-9][0-9]{1,2}[)）][ -]?[2-9][0-9]{2,3}[ -]?[0-9]{4}"), _any),  # a Chinese landline
        (_number(r"0 [1-9][0-9]{1,2}[ -]?[2-9][0-9]{2,3}[ -]?[0-9]{4}"), _any),
        (_number(r"\( [2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-][0-9]{4}"), _any),  # North American
        (_number(r"1 [ .-]\(?[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}"), _any),
        (_number(r"[2-9] [0-9]{2}[.-][2-9][0-9]{2}[.-][0-9]{4}"), _any),
        (_number(r"[48] 00(?:-[0-9]{3}-?[0-9]{4}|[0-9]-[0-9]{3}-[0-9]{3})"), _any),
    ),
    "ip": (
        (_number(r"[0-9] [0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\.[0-9])"), _is_ip),
        (re.compile(r"[0-9A-Fa-f:](?<![A-Za-z0-9_:]{2})[0-9A-Fa-f]{0,3}:[0-9A-Fa-f:]{1,38}(?![A-Za-z0-9_:])"), _is_ip),
    ),
}
