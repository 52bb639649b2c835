"""Lists and mappings that a table holds as text."""

from __future__ import annotations

import ast
import json
import warnings
from typing import Any


def parsed(value: Any) -> Any:
    """A list, tuple or mapping written as JSON or as Python writes it; everything else comes back as it is."""
    if not isinstance(value, str) or not value.strip().startswith(("[", "{", "(")):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an invalid escape in somebody's text
                found = parse(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list | tuple | dict):
            return found
    return value
