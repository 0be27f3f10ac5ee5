"""The users of Redis in Compose and Kubernetes, from the template docker/redis/users.acl."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[1] / "docker" / "redis" / "users.acl"
_HASH = re.compile(r"\{hash:(\w+)\}")


def users_file(passwords: Mapping[str, str]) -> str:
    """Returns the text of the ACL file of Redis, with one user for each role in `passwords` (role → password).

    The file contains the SHA-256 of each password. Users of the template for other roles are left out.

    Raises:
        ValueError: the template has no user for a role in `passwords`.
    """
    # Redis allows no comments in this file.
    lines = [line for line in TEMPLATE.read_text().splitlines() if not line.startswith("#")]
    if unknown := sorted(passwords.keys() - set(_HASH.findall("\n".join(lines)))):
        raise ValueError(f"{TEMPLATE.name} has no user for {', '.join(unknown)}")
    hashes = {role: hashlib.sha256(password.encode()).hexdigest() for role, password in passwords.items()}
    kept = [line for line in lines if set(_HASH.findall(line)) <= hashes.keys()]
    return _HASH.sub(lambda found: hashes[found[1]], "".join(f"{line}\n" for line in kept))
