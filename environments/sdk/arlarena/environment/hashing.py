"""Hashes of states, observations and task contents. Random generators and splits are derived from hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from random import Random


def digest(text: str) -> str:
    """Return the blake2b hash of a text as 32 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def seeded(*key: object) -> Random:
    """Return a random generator seeded by the text of `key`. Equal keys give equal sequences of random numbers in all
    processes and on all machines.
    """
    return Random(int(digest("/".join(map(str, key))), 16))


def split_of_digest(digest: str, shares: Mapping[str, int]) -> str:
    """Return the split that a task belongs to. `digest`: the hash of the task's content. `shares`: the relative size of
    each split. For example, with {"train": 5, "validation": 1, "test": 2}, five eighths of all contents are in `train`.
    """
    position = int(digest, 16) % sum(shares.values())
    for name, share in shares.items():
        if position < share:
            return name
        position -= share
    raise AssertionError("unreachable: every position belongs to a share")
