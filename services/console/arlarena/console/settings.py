"""Settings of a run and its launcher. In the console, only this module reads settings from environment variables."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from arlarena.console.launch.child_environment import child_environment
from arlarena.proto.config import (
    ConfigError,
    Table,
    exit_on_config_error,
    load_table,
    read_secret,
    secret_from,
)
from arlarena.proto.http.addresses import service_url
from arlarena.proto.shared_settings import ConsoleKeys, RunSettings, seed_from
from arlarena.proto.streams.broker_address import broker_url
from arlarena.proto.text.redaction import register_secret

ADMIN_TOKEN = "ARLARENA_INFERENCE_ADMIN_TOKEN"
ENVIRONMENT_TOKEN = "ARLARENA_ENVIRONMENT_TOKEN"
API_KEY = "ARLARENA_INFERENCE_API_KEY"
BROKER_URL = "ARLARENA_REDIS_URL"
PAGE_TOKEN = "ARLARENA_PAGE_TOKEN"


class Threads(Table):
    """Table `[console.threads]`: the number of threads of each process that runs a model.

    If a number is 0, the function `budget` chooses the number.

    A key `threads` in a service's own table overrides the value here. Environment server, workers and evaluation have
    one thread each.
    """

    clone: NonNegativeInt = Field(default=0, description="number of threads of cloning; 0: all cores")
    trainer: NonNegativeInt = Field(default=0, description="number of threads of the trainer; 0: half of the cores")
    inference: NonNegativeInt = Field(
        default=0, description="number of threads of the policy server; 0: half of the cores"
    )

    def budget(self, cores: int) -> dict[str, int]:
        """Returns the number of threads for each table.

        Cloning runs alone and gets all cores. Trainer and policy server run at the same time and get half of the cores
        each. On two cores, two processes with two threads each are 4 to 18 times slower than two processes with one
        thread each.
        """
        half = max(1, cores // 2)
        return {
            "clone": self.clone or cores,
            "trainer": self.trainer or half,
            "inference": self.inference or half,
        }


class ConsoleSettings(ConsoleKeys):
    """Table `[console]`: the launcher's supervision of processes. Times are in seconds."""

    renamed: ClassVar[Mapping[str, str]] = {
        "forgive_after_s": "restart_reset_after_s",
        "stall_s": "hang_timeout_s",
    }

    workers: PositiveInt = Field(default=1, description="number of rollout worker processes")
    restarts: NonNegativeInt = Field(
        default=5, description="maximum number of restarts of one service; the run ends if the service then fails again"
    )
    restart_reset_after_s: PositiveFloat = Field(
        default=600, description="after a service has run for this time, its count of restarts starts again at 0"
    )
    backoff_s: NonNegativeFloat = Field(
        default=0.5,
        description="pause before the first restart of a service; the pause doubles with each further restart",
    )
    backoff_max_s: NonNegativeFloat = Field(default=10, description="maximum pause before a restart")
    check_timeout_s: PositiveFloat = Field(
        default=60,
        description="maximum duration of a service's check of the configuration before a run; on an idle "
        "machine, a check takes less than a second, or a few seconds if torch is read from a slow disk",
    )
    ready_timeout_s: PositiveFloat = Field(
        default=120, description="maximum time from the start of a server to its first successful health check"
    )
    health_interval_s: PositiveFloat = Field(default=2, description="interval between two health checks of a server")
    health_timeout_s: PositiveFloat = Field(default=5, description="timeout of one health check")
    health_failures: PositiveInt = Field(
        default=6, description="failed health checks in a row after which a service counts as hung"
    )
    hang_timeout_s: PositiveFloat = Field(
        default=1200,
        description="a trainer, worker or stage counts as hung after this time without output; must be longer than "
        "[trainer] no_data_timeout_s, because a trainer without data ends after that time and reports the reason",
    )
    stage_timeout_s: PositiveFloat = Field(
        default=7200, description="maximum duration of a stage; training has no such limit"
    )
    stop_timeout_s: PositiveFloat = Field(
        default=10, description="when a process is stopped, time between SIGTERM and SIGKILL"
    )
    plain_interval_s: PositiveFloat = Field(
        default=5, description="minimum time between two progress lines if the output is not a terminal"
    )
    page: bool = Field(
        default=True,
        description="whether `arlarena up` serves a web page about the run (as `arlarena view` does), with a low "
        "priority; has no effect with --attach",
    )
    page_port: NonNegativeInt = Field(
        default=8400,
        le=65535,
        description="port of the page; a free port is used if this port is in use, or if the value is 0",
    )
    pass_environment: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\*?$")], ...] = Field(
        default=(),
        description="further environment variables for the services; NAME_* matches all names that begin with NAME_",
    )
    threads: Threads = Field(default=Threads(), description="number of threads of cloning, trainer and policy server")


class BrokerSettings(Table):
    """Table `[redis]`: the broker of the run."""

    url: str = Field(
        default="",
        description="URL of a Redis (version 7 or newer) or Valkey server; the environment variable REDIS_URL "
        "overrides this key; without a URL, the run starts a local server",
    )
    password_file: str = Field(
        default="",
        description="file with the password of the Redis at `url`; the environment variables REDIS_PASSWORD and "
        "REDIS_PASSWORD_FILE override this key",
    )
    fsync: Literal["everysec", "always"] = Field(
        default="everysec",
        description="when the local server flushes its data to disk: every second, or at every write",
    )
    port: NonNegativeInt = Field(default=0, le=65535, description="port of the local server; 0: a free port")
    start_timeout_s: PositiveFloat = Field(
        default=30, description="maximum time from the start of the local server to its first reply"
    )


def seed_from_environment() -> int | None:
    """Returns the seed in ARLARENA_SEED, or None if the variable is not set. Raises ConfigError if it is invalid."""
    return seed_from(os.environ)


def admin_token() -> str:
    """Returns the policy server's admin token (see `given_admin_token`). If none is given, returns a random token."""
    token = given_admin_token() or secrets.token_urlsafe(24)
    register_secret(token)
    return token


def environment_token() -> str | None:
    """Returns the environment server's token: ARLARENA_ENVIRONMENT_TOKEN, else the content of the file in
    ARLARENA_ENVIRONMENT_TOKEN_FILE, else None. Raises ConfigError if the file cannot be read or is empty.
    """
    return secret_from(os.environ, ENVIRONMENT_TOKEN)


def api_key() -> str | None:
    """Returns the policy server's API key: ARLARENA_INFERENCE_API_KEY, else the content of the file in
    ARLARENA_INFERENCE_API_KEY_FILE, else None. Raises ConfigError if the file cannot be read or is empty.
    """
    return secret_from(os.environ, API_KEY)


def external_broker_url(settings: BrokerSettings) -> str:
    """Returns the URL of the user's Redis with the password: REDIS_URL, else `[redis] url`.

    Returns "" if there is no URL. `arlarena up` then starts a local server.

    Raises:
        ConfigError: the file with the password cannot be read.
    """
    url = redis_url_from_environment() or settings.url
    return broker_url(url, os.environ, settings.password_file) if url else ""


@dataclass(frozen=True, slots=True)
class ServiceAddresses:
    """URLs of the services that `arlarena up --attach` and `arlarena join` use. A URL that is not given is empty."""

    environment_url: str = ""
    inference_url: str = ""
    redis_url: str = ""


def service_addresses(flags: Mapping[str, str | None]) -> ServiceAddresses:
    """Returns the addresses in `flags`. Missing addresses come from the environment variables
    ARLARENA_ENVIRONMENT_URL, ARLARENA_INFERENCE_URL and ARLARENA_REDIS_URL. The URL of Redis contains the password.

    Raises:
        ConfigError: an address is not an HTTP URL, or the file with the password cannot be read.
    """
    names = ("environment_url", "inference_url", "redis_url")
    given = {name: flags.get(name) or os.environ.get(f"ARLARENA_{name.upper()}", "") for name in names}
    broker = broker_url(url, os.environ) if (url := given.pop("redis_url")) else ""
    try:
        return ServiceAddresses(**{name: url and service_url(url) for name, url in given.items()}, redis_url=broker)
    except ValueError as error:
        raise ConfigError(f"address of a service: {error}") from error


def given_admin_token() -> str | None:
    """Returns the policy server's admin token: ARLARENA_INFERENCE_ADMIN_TOKEN, else the content of the file in
    ARLARENA_INFERENCE_ADMIN_TOKEN_FILE, else None. Raises ConfigError if the file cannot be read or is empty.
    """
    return secret_from(os.environ, ADMIN_TOKEN)


def page_token(file: Path | None) -> str | None:
    """Returns the token of the run page, or None if no token is set. `file`: the value of --token-file.

    The token is the content of `file`. If `file` is None, the token is ARLARENA_PAGE_TOKEN, else the content of the
    file in ARLARENA_PAGE_TOKEN_FILE.

    Raises:
        ConfigError: a file cannot be read or is empty.
    """
    if file is None:
        return secret_from(os.environ, PAGE_TOKEN)
    token = read_secret(file, "--token-file")
    register_secret(token)
    return token


def page_cache_folder() -> Path:
    """Returns the folder of the run page's indices.

    If ARLARENA_CACHE_DIR is set, the folder is ARLARENA_CACHE_DIR/page. Otherwise it is XDG_CACHE_HOME/arlarena/page.
    The default of XDG_CACHE_HOME is ~/.cache.
    """
    if chosen := os.environ.get("ARLARENA_CACHE_DIR"):
        return Path(chosen) / "page"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arlarena" / "page"


def redis_url_from_environment() -> str:
    """Returns REDIS_URL, or an empty string."""
    return os.environ.get("REDIS_URL", "").strip()


def inherited(service: str, extra: Sequence[str] = ()) -> dict[str, str]:
    """Returns the environment variables for a process of `service` (see `child_environment`)."""
    return child_environment(service, os.environ, extra)


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def validate(path: Path) -> None:
    """Check the tables [run], [redis] and [console] of a configuration file.

    Raises:
        ConfigError: the file cannot be read, or a value is invalid.
    """
    load_table(path, "run", RunSettings)
    load_table(path, "redis", BrokerSettings)
    load_table(path, "console", ConsoleSettings)


def main() -> int:
    """Check the file given on the command line: `python -m arlarena.console.settings FILE`."""
    if len(sys.argv) != 2:
        raise ConfigError("usage: python -m arlarena.console.settings FILE")
    validate(Path(sys.argv[1]))
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(exit_on_config_error(main))
