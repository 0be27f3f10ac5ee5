"""The hash for keys of states, observations and contents."""

from __future__ import annotations

import hashlib


def digest(text: str) -> str:
    """32 hex digits of blake2b."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
