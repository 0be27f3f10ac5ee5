"""The hash for keys of states, observations and contents, and the random generators and splits that use it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from random import Random


def digest(text: str) -> str:
    """Return the blake2b hash of a text as 32 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def seeded(*key: object) -> Random:
    """Return a random generator seeded by the text of `key`. The generator is the same in all processes and on all
    machines.
    """
    return Random(int(digest("/".join(map(str, key))), 16))


def split_of_digest(digest: str, shares: Mapping[str, int]) -> str:
    """Return the split of a content by its hash. `shares`: the size of each split, such as 5, 1 and 2 eighths of all
    contents.
    """
    position = int(digest, 16) % sum(shares.values())
    for name, share in shares.items():
        if position < share:
            return name
        position -= share
    raise AssertionError("shares cover every digest")
