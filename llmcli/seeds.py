"""Seeds that follow from what they are for, so that no draw depends on the draws before it."""

from __future__ import annotations

import hashlib


def mix(*parts: object) -> int:
    """A seed in [0, 2^63) from anything with a stable repr, the same in every process and Python version."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1
