"""Chinese between traditional and simplified characters, by OpenCC's dictionaries."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Literal, get_args

from llmcli.errors import InputError, require

ToSimplified = Literal["t2s", "tw2s", "tw2sp", "hk2s", "hk2sp"]
ToTraditional = Literal["s2t", "s2tw", "s2twp", "s2hk", "s2hkp"]

_SURROGATES = re.compile("([\ud800-\udfff]+)")


def to_simplified(text: str, *, profile: ToSimplified) -> str:
    """Simplified characters for traditional ones, word by word where a character has several readings.

    profile: OpenCC's name for where the text comes from: t any, tw Taiwan, hk Hong Kong; with p, words that only that
    place uses are exchanged too (滑鼠, 鼠标). Raises InputError for another name, and without the package opencc.
    """
    return _convert(text, profile, get_args(ToSimplified), "simplified")


def to_traditional(text: str, *, profile: ToTraditional) -> str:
    """Traditional characters for simplified ones. profile: as in `to_simplified`, for the place that reads the text."""
    return _convert(text, profile, get_args(ToTraditional), "traditional")


def _convert(text: str, profile: str, known: tuple[str, ...], step: str) -> str:
    if profile not in known:
        raise InputError(f"clean.{step}.profile ({profile}) must be one of {', '.join(known)}")
    convert = _converter(profile, step).convert
    if _SURROGATES.search(text):  # OpenCC works on UTF-8, which a lone surrogate has none of
        return "".join(part if _SURROGATES.match(part) else convert(part) for part in _SURROGATES.split(text) if part)
    return str(convert(text))


@cache
def _converter(profile: str, step: str) -> Any:
    return require("opencc", extra="zh", purpose=f"clean=[{step}]").OpenCC(profile)
