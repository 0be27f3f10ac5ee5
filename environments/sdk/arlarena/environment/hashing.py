"""Hashes of states, observations and task contents, and random generators and splits derived from hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from random import Random


def digest(text: str) -> str:
    """Return the blake2b hash of a text as 32 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def seeded(*key: object) -> Random:
    """Return a random generator with a seed derived from `key`. Equal keys give equal random numbers in all processes
    and on all machines.
    """
    return Random(int(digest("/".join(map(str, key))), 16))


def split_of_digest(digest: str, shares: Mapping[str, int]) -> str:
    """Return the split of a task. `digest`: the hash of the task's content. `shares`: the relative size of each split.
    For example, {"train": 5, "validation": 1, "test": 2} puts five eighths of all contents into `train`.
    """
    position = int(digest, 16) % sum(shares.values())
    for name, share in shares.items():
        if position < share:
            return name
        position -= share
    raise AssertionError("unreachable: every position belongs to a share")
