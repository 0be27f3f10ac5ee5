"""The settings of an environment server: the table [environment]. No other file of this service reads environment
variables.

`python -m arlarena.env_server.settings FILE` checks a configuration file. If the file is valid, the command prints
"ok". Otherwise it prints an error and exits with status 2.
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
        description="file with more tokens, one per line, as TOKEN or NAME:TOKEN; tokens with the same name share "
        "their sessions; if the file changes, the server reads it again",
    )
    require_token: bool = Field(True, description="true: without a token, the server starts only on a loopback address")
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="addresses or networks of trusted proxies; in their requests, the header X-Forwarded-For gives the "
        "client's address",
    )
    session_ttl_s: PositiveFloat = Field(900.0, description="default idle time after which a session ends")
    frames: Literal["url", "data"] = Field(
        "url", description="url: an observation has the URL of its image; data: an observation contains its image"
    )
    frame_cache_bytes: PositiveInt = Field(64 << 20, description="maximum total size of the stored images")
    max_snapshots: PositiveInt = Field(1024, description="maximum number of stored snapshots")
    snapshot_ttl_s: PositiveFloat = Field(900.0, description="time after which an unused snapshot is deleted")
    reap_interval_s: PositiveFloat = Field(5.0, description="interval at which the server ends expired sessions")
    reattach_grace_s: PositiveFloat = Field(
        60.0, description="how long a session stays open after the connection of its WebSocket is lost"
    )
    reset_cache_size: NonNegativeInt = Field(
        1024,
        description="maximum number of tasks in the reset cache; a reset of a cached task copies its cached episode; "
        "0: no cache",
    )
    pool_threads: PositiveInt | None = Field(
        None,
        description="number of threads for resets, the expert and blocking steps; default: the number that the "
        "environment declares, else 2",
    )
    lost_threads_timeout_s: PositiveFloat = Field(
        60.0,
        description="if all threads are lost for this time, /health answers 503; a thread is lost while it runs work "
        "that has timed out; if the server has several workers, the affected worker is restarted",
    )
    max_waiting: PositiveInt = Field(
        4096, description="maximum number of calls that wait for a thread; further calls get the status 429"
    )
    reset_timeout_s: PositiveFloat = Field(60.0, description="time limit of a reset")
    step_timeout_s: PositiveFloat = Field(
        75.0,
        description="time limit of a step if the environment's steps block; on a busy machine, a program of TIR Math "
        "can take 60 s (6 times the sandbox's wall_s)",
    )
    expert_timeout_s: PositiveFloat = Field(60.0, description="time limit of a request for the expert's replies")
    batch_deadline_s: PositiveFloat = Field(
        90.0, description="default time limit of a batch (deadline_s); should be above step_timeout_s"
    )
    max_listed: PositiveInt = Field(10_000, description="maximum number of tasks in the reply to one request")
    max_body_bytes: PositiveInt = Field(4 << 20, description="maximum size of a request body or a WebSocket message")
    max_pending_bytes: PositiveInt = Field(
        32 << 20, description="maximum total size of all unanswered request bodies and messages"
    )
    max_connections: PositiveInt = Field(4096, description="maximum number of open connections")
    header_timeout_s: PositiveFloat = Field(10.0, description="time limit for receiving the headers of a request")
    write_timeout_s: PositiveFloat = Field(120.0, description="how long a client may leave a reply unread")
    max_action_chars: PositiveInt = Field(
        1 << 18,
        description="maximum length of an action in characters; one character takes at most 12 bytes in JSON",
    )
    retry_after_s: PositiveFloat = Field(1.0, description="value of the header Retry-After if the server is full")
    websocket_ping_s: NonNegativeFloat = Field(
        0.0,
        description="interval of keep-alive pings; 0: no pings (a client can be too busy to answer pings while its "
        "model samples)",
    )
    drain_s: NonNegativeFloat = Field(5.0, description="how long a stopping server waits for open sessions to end")
    shutdown_timeout_s: PositiveFloat = Field(10.0, description="how long a stopping server waits for running requests")
    pods: str | None = Field(
        None,
        pattern=r"\{pod\}",
        description="URL of the pods of the Kubernetes StatefulSet, with {pod} in place of the pod's number, such as "
        "http://sokoban-{pod}.sokoban:8000",
    )
    pod: NonNegativeInt | None = Field(
        None, description="number of this pod; default: the number at the end of the host name"
    )
    shard: str = Field(
        "0",
        pattern=r"^[A-Za-z0-9]{1,16}$",
        description="prefix of session ids; a router can choose the server by this prefix",
    )


def load_settings(path: Path | None, flags: Mapping[str, Any] | None = None) -> EnvironmentSettings:
    """Returns the settings. Command-line flags override environment variables. Environment variables override the table
    [environment] of `path`.

    Raises:
        ConfigError: the table is invalid (see `arlarena.proto.config.load_table`), or other machines could connect
            without a token.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    variables = variables_of(os.environ, "ARLARENA_ENVIRONMENT_", EnvironmentSettings, leave_out=TABLES)
    settings = load_table(path, "environment", EnvironmentSettings, {**variables, **given})
    if settings.require_token and not (settings.token or settings.tokens_file or is_loopback(settings.host)):
        raise ConfigError(
            f"[environment] host = {settings.host!r} is open to other machines: set token (preferably by the "
            "environment variable ARLARENA_ENVIRONMENT_TOKEN) or tokens_file. To let everyone who can connect "
            "use the server, set require_token = false instead"
        )
    return settings


def check(path: Path) -> None:
    """Validate the table [environment] of a file, including the options of the environment.

    Raises:
        ConfigError: the file is invalid.
    """
    from arlarena.environment.protocols import warnings_of
    from arlarena.environment.registry import load

    settings = load_settings(path)
    for message in warnings_of(load(f"{path}: [environment]", settings.name, settings.options)):
        print(f"warning: {path}: [environment.options] {message}", file=sys.stderr)


def main() -> int:
    """Check the file given on the command line. Returns the exit status."""
    if len(sys.argv) != 2:
        print("usage: python -m arlarena.env_server.settings FILE", file=sys.stderr)
        return 2
    check(Path(sys.argv[1]))
    print("ok")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_on_config_error(main))
