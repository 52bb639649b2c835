"""What the user may have meant (standard library only)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The choice that `word` is most likely a misspelling of, None where nothing is close."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return found[0] if found else None


def nearest_key(key: str, keys: Sequence[str]) -> str | None:
    """The config key meant by `key`: misspelt, or only its last part (max_steps -> trainer.max_steps)."""
    if "." in key:
        folder, _, leaf = key.rpartition(".")
        beside = {each.removeprefix(f"{folder}."): each for each in keys if each.startswith(f"{folder}.")}
        if found := nearest(leaf, beside):
            return beside[found]
        return nearest(key, keys, cutoff=0.75)
    exact = [each for each in keys if each.rpartition(".")[2] == key]
    if exact:
        return min(exact, key=lambda each: (each.count("."), each))
    if found := nearest(key, [each for each in keys if "." not in each], cutoff=0.7):
        return found
    leaves = {each.rpartition(".")[2]: each for each in reversed(keys)}
    found = nearest(key, leaves, cutoff=0.8)
    return leaves[found] if found else None


def did_you_mean(text: str | None) -> str:
    """` Did you mean TEXT?`, or nothing."""
    return f" Did you mean {text}?" if text else ""
