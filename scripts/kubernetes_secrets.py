#!/usr/bin/env python3
"""Creates the Secrets of a deployment on Kubernetes: tokens, passwords of Redis users, and a certificate for Redis.

    python3 -m scripts.kubernetes_secrets | kubectl apply -f -

Every call creates new values and prints the Secrets as JSON. After a second call, restart the pods
(docs/how-to/operate.md). The script leaves no file: openssl writes the keys of the certificate into a temporary
directory, and the script removes this directory. No command line contains a secret. The program openssl must be
installed.

--days N: number of days for which the certificate of Redis is valid (default: 365).
"""

from __future__ import annotations

import argparse
import base64
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.redis_users import users_file

NAMESPACE = "arlarena"
TOKENS = ("environment-token", "inference-api-key", "inference-admin-token", "page-token")
ROLES = ("trainer", "rollout", "keda")  # the roles in docker/redis/users.acl that the manifests use
# The DNS names that clients use for Redis.
HOSTS = ("redis", f"redis.{NAMESPACE}", f"redis.{NAMESPACE}.svc", f"redis.{NAMESPACE}.svc.cluster.local")


def keys() -> dict[str, set[str]]:
    """Returns the names and keys of all Secrets that this script creates: name of the Secret → its keys."""
    tokens = {name: {"token"} for name in TOKENS}
    users = {f"redis-{role}": {"username", "password", "tls"} for role in ROLES}
    return tokens | users | {"redis-users": {"users.acl"}, "redis-ca": {"ca.crt"}, "redis-tls": set(_TLS)}


_TLS = ("ca.crt", "tls.crt", "tls.key")


def certificate(days: int) -> dict[str, str]:
    """Creates a certificate for Redis. Returns the files ca.crt, tls.crt and tls.key: name → text.

    A new certificate authority signs the certificate, which is valid for `days` days. The private key of the authority
    is deleted.

    Raises:
        RuntimeError: openssl is missing or failed.
    """
    if shutil.which("openssl") is None:
        raise RuntimeError("the program openssl is missing: install it")
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        alternatives = ",".join(f"DNS:{host}" for host in HOSTS)
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        own = ["-x509", *new_key, "-subj", "/CN=ARLArena Redis CA", "-days", str(days)]
        _openssl(here, "req", *own, "-keyout", "ca.key", "-out", "ca.crt")
        _openssl(here, "req", *new_key, "-subj", "/CN=redis", "-keyout", "tls.key", "-out", "tls.csr")
        (here / "extensions").write_text(f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth\n")
        signing = ["-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
        _openssl(here, "x509", *signing, "-days", str(days), "-extfile", "extensions", "-out", "tls.crt")
        return {name: (here / name).read_text() for name in _TLS}


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")


def values(days: int) -> dict[str, dict[str, str]]:
    """Returns new values of all Secrets: name of the Secret → key → text."""
    passwords = {role: secrets.token_urlsafe(32) for role in ROLES}
    tls = certificate(days)
    users = {
        f"redis-{role}": {"username": role, "password": password, "tls": "enable"}
        for role, password in passwords.items()
    }
    return {
        **{name: {"token": secrets.token_urlsafe(32)} for name in TOKENS},
        **users,
        "redis-users": {"users.acl": users_file(passwords)},
        "redis-ca": {"ca.crt": tls["ca.crt"]},
        "redis-tls": tls,
    }


def manifest(name: str, data: dict[str, str]) -> dict[str, object]:
    """Returns a Secret as a Kubernetes object. `data`: key → text."""
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "arlarena"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded}


def main() -> int:
    """Print all Secrets as one Kubernetes object of kind List. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365)
    days = parser.parse_args().days
    if sys.stdout.isatty():
        print("error: the terminal would show the secrets: pipe the output into `kubectl apply -f -`", file=sys.stderr)
        return 2
    try:
        items = [manifest(name, data) for name, data in values(days).items()]
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
