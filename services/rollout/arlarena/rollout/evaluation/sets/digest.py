"""The digest of a list of tasks. Two results are comparable only if the digests of their tasks are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def tasks_digest(tasks: Iterable[tuple[str, str]], *, digest_bytes: int = 8) -> str:
    """Returns the digest of all pairs (task id, content key), in hex digits. The order of `tasks` has no effect."""
    names = sorted(f"{task_id} {content_key}" for task_id, content_key in tasks)
    return hashlib.blake2b("\n".join(names).encode(), digest_size=digest_bytes).hexdigest()
