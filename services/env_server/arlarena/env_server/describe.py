"""`python -m arlarena.env_server.describe FILE` checks the table [environment] of a file and describes the environment.

The command prints the same JSON as the route `/v1/info`. The launcher (`arlarena up`) reads this JSON to check the
names of splits before a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from arlarena.env_server.settings import load_settings
from arlarena.environment.registry import info_of, load
from arlarena.proto.config import ConfigError, exit_on_config_error


def main() -> int:
    """Print the description of the environment. Returns the exit status."""
    if len(sys.argv) != 2:
        raise ConfigError("usage: python -m arlarena.env_server.describe FILE")
    path = Path(sys.argv[1])
    settings = load_settings(path)
    factory = load(f"{path}: [environment]", settings.name, settings.options)
    print(msgspec.json.encode(info_of(factory, settings.name)).decode())
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_on_config_error(main))
