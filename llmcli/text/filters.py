"""Steps that drop a document (None) by its length, language or script."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from llmcli.errors import InputError, require
from llmcli.text.scripts import share, words


def keep_length(text: str, *, unit: Literal["characters", "words"], minimum: int, maximum: int | None) -> str | None:
    """Documents of `minimum` to `maximum` characters or words; null is no upper bound.

    Words are what stands between white space, in Chinese and Japanese single characters. Raises InputError for a
    maximum below the minimum and for another unit.
    """
    if maximum is not None and maximum < minimum:
        raise InputError(f"clean.length.maximum ({maximum}) must be at least clean.length.minimum ({minimum})")
    if unit not in ("characters", "words"):
        raise InputError(f"clean.length.unit ({unit}) must be characters or words")
    length = len(words(text)) if unit == "words" else len(text)
    return text if minimum <= length and (maximum is None or length <= maximum) else None


def keep_languages(text: str, *, languages: Sequence[str], min_probability: float, sample: int) -> str | None:
    """Documents in one of `languages` (ISO 639-1), as langid's model sees it (Lui and Baldwin 2012; py3langid).

    Kept where the languages together have at least `min_probability`, judged by the first `sample` characters. Texts of
    a few words are often taken for another language. Raises InputError for a language that the model does not know.
    """
    if not languages:
        raise InputError("clean.language.languages is empty", "for instance: clean.language.languages=[en,zh]")
    identifier = _identifier()
    if unknown := [language for language in languages if language not in identifier.labels]:
        known = ", ".join(sorted(identifier.labels))
        raise InputError(f"clean.language.languages: {unknown[0]} is not known", f"known are: {known}")
    wanted = dict(identifier.rank(text[:sample]))
    return text if sum(wanted[language] for language in set(languages)) >= min_probability else None


def language_of(text: str) -> str:
    """The likeliest language (ISO 639-1) of a text, by the same model."""
    return str(_identifier().classify(text)[0])


@cache
def _identifier() -> Any:
    langid = require("py3langid.langid", extra="text", purpose="clean=[language]")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def keep_scripts(text: str, *, scripts: Sequence[str], min_share: float) -> str | None:
    """Documents in which at least `min_share` of the letters belong to these scripts; one without letters goes.

    Raises InputError for a script that `llmcli.text.scripts` does not have.
    """
    return text if share(text, tuple(scripts)) >= min_share else None
