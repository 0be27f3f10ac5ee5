"""What a user can set of a run as a whole. No other file of the console reads the environment."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from arlarena.console.launch.child_environment import child_environment
from arlarena.proto.config import ConfigError, Table, exit_on_config_error, load_table, secret_from
from arlarena.proto.shared_settings import ConsoleKeys, RunSettings, seed_from
from arlarena.proto.streams.broker_address import broker_url
from arlarena.proto.text.redaction import hide

ADMIN_TOKEN = "ARLARENA_INFERENCE_ADMIN_TOKEN"
ENVIRONMENT_TOKEN = "ARLARENA_ENVIRONMENT_TOKEN"
API_KEY = "ARLARENA_INFERENCE_API_KEY"
BROKER_URL = "ARLARENA_REDIS_URL"


class Threads(Table):
    """Table `[console.threads]`: threads of the processes that compute; 0 leaves the choice to `budget`.

    A service's own `threads` wins over it. Everything else (environment server, workers, evaluation) has one.
    """

    clone: NonNegativeInt = Field(default=0, description="of cloning; 0: all cores")
    trainer: NonNegativeInt = Field(default=0, description="of the trainer; 0: half of the cores")
    inference: NonNegativeInt = Field(default=0, description="of the policy server; 0: half of the cores")

    def budget(self, cores: int) -> dict[str, int]:
        """Threads by table.

        Cloning has the machine to itself. Trainer and policy server share it: two processes with two threads each on
        two cores run 4 to 18 times slower than with one each.
        """
        half = max(1, cores // 2)
        return {
            "clone": self.clone or cores,
            "trainer": self.trainer or half,
            "inference": self.inference or half,
        }


class ConsoleSettings(ConsoleKeys):
    """Table `[console]`: how the launcher looks after its processes. Times are in seconds."""

    renamed: ClassVar[Mapping[str, str]] = {
        "forgive_after_s": "restart_reset_after_s",
        "stall_s": "hang_timeout_s",
    }

    workers: PositiveInt = Field(default=1, description="rollout worker processes")
    restarts: NonNegativeInt = Field(default=5, description="restarts of one service before the run ends")
    restart_reset_after_s: PositiveFloat = Field(
        default=600, description="a service that was well for so long has all its restarts again"
    )
    backoff_s: NonNegativeFloat = Field(default=0.5, description="wait before the first restart; doubles with each")
    backoff_max_s: NonNegativeFloat = Field(default=10, description="longest wait before a restart")
    ready_timeout_s: PositiveFloat = Field(
        default=120, description="from a service's start to its first healthy answer"
    )
    health_interval_s: PositiveFloat = Field(default=2, description="between two health checks of a server")
    health_timeout_s: PositiveFloat = Field(default=5, description="limit of one health check")
    health_failures: PositiveInt = Field(
        default=6, description="failed checks in a row after which a service counts as hung"
    )
    hang_timeout_s: PositiveFloat = Field(
        default=1200,
        description="the trainer, a worker or a stage without output for this time counts as hung; above [trainer] "
        "no_data_timeout_s, after which the trainer itself ends and says why",
    )
    stage_timeout_s: PositiveFloat = Field(default=7200, description="limit of one stage that is not the training")
    stop_timeout_s: PositiveFloat = Field(default=10, description="from SIGTERM to SIGKILL")
    plain_interval_s: PositiveFloat = Field(
        default=5, description="between two progress lines where there is no terminal"
    )
    pass_environment: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\*?$")], ...] = Field(
        default=(),
        description="further environment variables for the services; NAME_* means all whose names begin with NAME_",
    )
    threads: Threads = Field(default=Threads(), description="threads of the processes that compute")


class BrokerSettings(Table):
    """Table `[redis]`."""

    url: str = Field(
        default="",
        description="a Redis 7 or Valkey 8 to use; the environment variable REDIS_URL wins over it; with neither, a "
        "server of our own",
    )
    password_file: str = Field(
        default="",
        description="file with the password of the Redis at url; REDIS_PASSWORD and REDIS_PASSWORD_FILE win over it",
    )
    fsync: Literal["everysec", "always"] = Field(default="everysec", description="our own server's append-only file")
    port: NonNegativeInt = Field(default=0, le=65535, description="our own server's port; 0: a free one")
    start_timeout_s: PositiveFloat = Field(
        default=30, description="from the start of our own server to its first answer"
    )


def seed_from_environment() -> int | None:
    """ARLARENA_SEED. Raises ConfigError."""
    return seed_from(os.environ)


def admin_token() -> str:
    """The token of the policy server's administrator: that of the environment, else one that nobody else knows."""
    token = os.environ.get(ADMIN_TOKEN) or secrets.token_urlsafe(24)
    hide(token)
    return token


def environment_token() -> str | None:
    """The environment server's token, if the environment has one."""
    return secret_from(os.environ, ENVIRONMENT_TOKEN)


def api_key() -> str | None:
    """The policy server's API key, if the environment has one."""
    return secret_from(os.environ, API_KEY)


def external_broker_url(settings: BrokerSettings) -> str:
    """The Redis that the user names, with its password: REDIS_URL, else `[redis] url`; empty for a server of our own.

    Raises:
        ConfigError: the file with the password cannot be read.
    """
    url = redis_url_from_environment() or settings.url
    return broker_url(url, os.environ, settings.password_file) if url else ""


def redis_url_from_environment() -> str:
    """REDIS_URL, or nothing."""
    return os.environ.get("REDIS_URL", "").strip()


def inherited(service: str, extra: Sequence[str] = ()) -> dict[str, str]:
    """What a process of `service` gets of our own environment, see `child_environment`."""
    return child_environment(service, os.environ, extra)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def validate(path: Path) -> None:
    """Check the console's own tables.

    Raises:
        ConfigError: see `load_table`.
    """
    load_table(path, "run", RunSettings)
    load_table(path, "redis", BrokerSettings)
    load_table(path, "console", ConsoleSettings)


def main() -> int:
    """`python -m arlarena.console.settings FILE`."""
    if len(sys.argv) != 2:
        raise ConfigError("usage: python -m arlarena.console.settings FILE")
    validate(Path(sys.argv[1]))
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(exit_on_config_error(main))
