"""The settings of an environment server: the table [environment]. No other file of this service reads environment
variables.

`python -m arlarena.env_server.settings FILE` checks a file. The command prints "ok", or prints an error and exits with
the code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, IPvAnyNetwork, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from arlarena.proto.config import ConfigError, exit_on_config_error, load_table, variables_of
from arlarena.proto.http.addresses import is_loopback
from arlarena.proto.shared_settings import EnvironmentKeys

TABLES = ("options", "expert_splits", "trusted_proxies")  # settings without an environment variable


class EnvironmentSettings(EnvironmentKeys):
    """Table [environment]. Times are in seconds."""

    renamed: ClassVar[Mapping[str, str]] = {
        "kept_starts": "reset_cache_size",
    }

    host: str = Field("127.0.0.1", description="address to bind")
    tokens_file: Path | None = Field(
        None,
        description="file of further tokens, one a line, as TOKEN or NAME:TOKEN; sessions belong to the token, or to "
        "the name, that opened them; read again when it changes",
    )
    require_token: bool = Field(True, description="refuse to start beyond loopback without a token")
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (), description="addresses or networks of proxies whose X-Forwarded-For names the client"
    )
    session_ttl_s: PositiveFloat = Field(900.0, description="idle time after which a session is closed, by default")
    frames: Literal["url", "data"] = Field("url", description="frames by URL, or within each observation")
    frame_cache_bytes: PositiveInt = Field(64 << 20, description="how much of the frames is kept for their URLs")
    max_snapshots: PositiveInt = Field(1024, description="most snapshots at a time")
    snapshot_ttl_s: PositiveFloat = Field(900.0, description="time after which an unused snapshot is given up")
    reap_interval_s: PositiveFloat = Field(5.0, description="how often idle sessions are looked for")
    reattach_grace_s: PositiveFloat = Field(60.0, description="how long a session outlives a lost socket")
    reset_cache_size: NonNegativeInt = Field(1024, description="tasks whose next player begins at once; 0: none")
    pool_threads: PositiveInt | None = Field(
        None,
        description="threads for resets, the expert, and blocking steps; default: 2, or the environment's own number",
    )
    lost_threads_timeout_s: PositiveFloat = Field(
        60.0,
        description="how long all threads may be lost to work that has timed out, until /health answers 503; a worker "
        "process then ends, and is started again",
    )
    max_waiting: PositiveInt = Field(4096, description="calls that may wait for a thread; one more is answered 429")
    reset_timeout_s: PositiveFloat = Field(60.0, description="limit of one reset")
    step_timeout_s: PositiveFloat = Field(
        75.0,
        description="limit of one step, where the environment's steps block; above the 60 s (6 times the sandbox's "
        "wall_s) that a program may take on a busy machine",
    )
    expert_timeout_s: PositiveFloat = Field(60.0, description="limit of one question to the expert")
    batch_deadline_s: PositiveFloat = Field(
        90.0, description="limit of a batch that names no deadline_s; above step_timeout_s"
    )
    max_listed: PositiveInt = Field(10_000, description="most tasks that one request lists")
    max_body_bytes: PositiveInt = Field(4 << 20, description="largest body of a request, and largest WebSocket message")
    max_pending_bytes: PositiveInt = Field(
        32 << 20, description="all bodies and messages together that are not answered yet"
    )
    max_connections: PositiveInt = Field(4096, description="most connections at a time")
    header_timeout_s: PositiveFloat = Field(10.0, description="time in which a request's headers have to arrive")
    write_timeout_s: PositiveFloat = Field(120.0, description="how long a client may leave an answer unread")
    max_action_chars: PositiveInt = Field(
        1 << 18, description="longest reply that a step reads; as JSON it takes at most 12 bytes a character"
    )
    retry_after_s: PositiveFloat = Field(1.0, description="value of Retry-After when the server is full")
    websocket_ping_s: NonNegativeFloat = Field(
        0.0, description="interval of keep-alive pings; 0: none, since a client that generates for long answers none"
    )
    drain_s: NonNegativeFloat = Field(5.0, description="how long a stop waits for open sessions to end")
    shutdown_timeout_s: PositiveFloat = Field(10.0, description="how long a stop waits for requests under way")
    pods: str | None = Field(
        None, pattern=r"\{pod\}", description="URL of each pod of a StatefulSet: http://sokoban-{pod}.sokoban:8000"
    )
    pod: NonNegativeInt | None = Field(
        None, description="this pod's number; default: that at the end of the host's name"
    )
    shard: str = Field("0", pattern=r"^[A-Za-z0-9]{1,16}$", description="prefix of session ids, for routing")


def load_settings(path: Path | None, flags: Mapping[str, Any] | None = None) -> EnvironmentSettings:
    """Returns the settings. Flags override environment variables, which override the table [environment] of `path`.

    Raises:
        ConfigError: see `arlarena.proto.config.load_table`. Also if other machines could connect without a token.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    variables = variables_of(os.environ, "ARLARENA_ENVIRONMENT_", EnvironmentSettings, leave_out=TABLES)
    settings = load_table(path, "environment", EnvironmentSettings, {**variables, **given})
    if settings.require_token and not (settings.token or settings.tokens_file or is_loopback(settings.host)):
        raise ConfigError(
            f"[environment] host = {settings.host!r} lets other machines in: set token, best by the environment "
            "variable ARLARENA_ENVIRONMENT_TOKEN, or tokens_file; or, where everybody who reaches this server may use "
            "it, require_token = false"
        )
    return settings


def check(path: Path) -> None:
    """Validate a configuration file, including the options of the environment.

    Raises:
        ConfigError: the file is invalid.
    """
    from arlarena.environment.protocols import warnings_of
    from arlarena.environment.registry import load

    settings = load_settings(path)
    for message in warnings_of(load(f"{path}: [environment]", settings.name, settings.options)):
        print(f"warning: {path}: [environment.options] {message}", file=sys.stderr)


def main() -> int:
    """Run the command of the module's docstring. Returns the exit code."""
    if len(sys.argv) != 2:
        print("usage: python -m arlarena.env_server.settings FILE", file=sys.stderr)
        return 2
    check(Path(sys.argv[1]))
    print("ok")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_on_config_error(main))
