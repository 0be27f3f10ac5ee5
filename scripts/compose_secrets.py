#!/usr/bin/env python3
"""Writes the secrets of compose.yaml into the folder OUT (default: secrets).

    python3 -m scripts.compose_secrets [OUT]

Each secret is one file with a random value: `environment_token`, `inference_api_key`, `inference_admin_token`,
`page_token`, `grafana_password`, and `redis_ROLE` for each role of Redis. `redis_users` is the list of Redis users with
the hashes of the passwords (redis_users.py). The script does not change existing secrets, so a running deployment
continues to work. To change a secret, remove its file, run the script again, and restart the services.

On the host, only the owner can enter the folder. The files have the mode 0444, because the containers run as another
user (10001), and Compose does not change the owner and mode of the files.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from scripts.redis_users import users_file

ROOT = Path(__file__).resolve().parents[1]
TOKENS = ("environment_token", "inference_api_key", "inference_admin_token", "page_token", "grafana_password")
ROLES = ("run", "trainer", "rollout")  # the roles in docker/redis/users.acl that compose.yaml uses
_BYTES = 32


def secret(path: Path) -> str:
    """Return the secret in the file `path`. If the file does not exist, first write a new random secret into it."""
    if not path.exists():
        write(path, secrets.token_urlsafe(_BYTES) + "\n")
    return path.read_text().strip()


def write(path: Path, text: str) -> None:
    """Write `text` into the file `path`, with the mode 0444. Replace an existing file atomically."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.chmod(0o444)
    os.replace(partial, path)


def write_all(folder: Path) -> None:
    """Write all secrets that do not exist yet, and the list of Redis users, into the folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name in TOKENS:
        secret(folder / name)
    passwords = {role: secret(folder / f"redis_{role}") for role in ROLES}
    write(folder / "redis_users", users_file(passwords))


def main() -> int:
    """Write the secrets into the folder OUT. Return the exit status: 0, or 2 after a wrong command line."""
    if len(sys.argv) > 2 or (len(sys.argv) == 2 and sys.argv[1].startswith("-")):
        print("usage: python3 -m scripts.compose_secrets [OUT]", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1]) if len(sys.argv) == 2 else ROOT / "secrets"
    write_all(folder)
    print(f"{folder} contains the secrets of compose.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
