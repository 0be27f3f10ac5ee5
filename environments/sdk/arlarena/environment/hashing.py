"""The hash for keys of states, observations and contents, and the random generators and splits that use it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from random import Random


def digest(text: str) -> str:
    """32 hex digits of blake2b."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def seeded(*key: object) -> Random:
    """Return a generator seeded by the text of `key`, the same in every process and on every machine."""
    return Random(int(digest("/".join(map(str, key))), 16))


def split_of_digest(digest: str, shares: Mapping[str, int]) -> str:
    """Return the split that a content belongs to; `shares` are parts of all contents by split, such as eighths."""
    position = int(digest, 16) % sum(shares.values())
    for name, share in shares.items():
        if position < share:
            return name
        position -= share
    raise AssertionError("shares cover every digest")
