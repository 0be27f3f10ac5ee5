"""The environment variables of WebShop. Only this module of the environment reads environment variables."""

from __future__ import annotations

import os
from pathlib import Path

from arlarena.proto.config import secret_from


def webshop_data() -> Path | None:
    """Return WEBSHOP_DATA, the folder with the official files. Return None if the variable is not set."""
    value = os.environ.get("WEBSHOP_DATA")
    return Path(value).expanduser() if value else None


def index_cache() -> Path:
    """Return the folder of built indexes: arlarena/webshop in XDG_CACHE_HOME, or in ~/.cache."""
    value = os.environ.get("XDG_CACHE_HOME")
    return (Path(value) if value else Path.home() / ".cache") / "arlarena" / "webshop"


def human_token() -> str | None:
    """Return WEBSHOP_HUMAN_TOKEN, the token of the shop for people. Return None if the variable is not set or empty."""
    return secret_from(os.environ, "WEBSHOP_HUMAN_TOKEN")
