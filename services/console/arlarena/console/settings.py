"""Settings of a run and its launcher. No other file of the console reads environment variables."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr

from arlarena.console.launch.child_environment import child_environment
from arlarena.proto.config import ConfigError, Table, exit_on_config_error, load_table
from arlarena.proto.streams.broker_address import broker_url
from arlarena.proto.text.redaction import hide

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
ADMIN_TOKEN = "ARLARENA_INFERENCE_ADMIN_TOKEN"
ENVIRONMENT_TOKEN = "ARLARENA_ENVIRONMENT_TOKEN"
API_KEY = "ARLARENA_INFERENCE_API_KEY"
BROKER_URL = "ARLARENA_REDIS_URL"


class RunSettings(Table):
    """Table `[run]`."""

    name: Annotated[str, Field(pattern=RUN_NAME)] = Field(
        default="run", description="name of the run; also names its streams and, by default, its directory"
    )
    directory: str = Field(default="", description="the run's directory; empty: runs/<name>")
    seed: NonNegativeInt = Field(
        default=0, description="seed of weights, tasks and sampling; ARLARENA_SEED and --seed override it"
    )

    @property
    def path(self) -> Path:
        """The run's directory."""
        return Path(self.directory or f"runs/{self.name}")


class Threads(Table):
    """Table `[console.threads]`: threads of the compute processes; 0: chosen by `budget`.

    A service's own `threads` overrides it. Environment server, workers and evaluation have one thread each.
    """

    clone: NonNegativeInt = Field(default=0, description="threads of cloning; 0: all cores")
    trainer: NonNegativeInt = Field(default=0, description="threads of the trainer; 0: half of the cores")
    inference: NonNegativeInt = Field(default=0, description="threads of the policy server; 0: half of the cores")

    def budget(self, cores: int) -> dict[str, int]:
        """Threads by table.

        Cloning runs alone. Trainer and policy server share the cores: two processes with two threads each on two
        cores are 4 to 18 times slower than with one thread each.
        """
        half = max(1, cores // 2)
        return {
            "clone": self.clone or cores,
            "trainer": self.trainer or half,
            "inference": self.inference or half,
        }


class Gpus(Table):
    """Table `[console.gpus]`: the GPU numbers of a process; empty: all GPUs.

    A trainer with several GPUs runs one rank per GPU (torchrun). vLLM's parallelism: `[inference] vllm_arguments`.
    """

    clone: tuple[NonNegativeInt, ...] = Field(default=(), description="GPUs of cloning, by number; none: all")
    trainer: tuple[NonNegativeInt, ...] = Field(
        default=(), description="GPUs of the trainer, one rank on each; none: all"
    )
    inference: tuple[NonNegativeInt, ...] = Field(default=(), description="GPUs of the policy server; none: all")

    def environment(self, table: str) -> dict[str, str]:
        """The variables that make only these GPUs visible to a process."""
        gpus: tuple[int, ...] = getattr(self, table)
        return {"CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in gpus)} if gpus else {}


class ConsoleSettings(Table):
    """Table `[console]`: the launcher's supervision of processes. Times are in seconds."""

    renamed: ClassVar[Mapping[str, str]] = {
        "forgive_after_s": "restart_reset_after_s",
        "stall_s": "hang_timeout_s",
    }

    workers: PositiveInt = Field(default=1, description="rollout worker processes")
    restarts: NonNegativeInt = Field(default=5, description="restarts of one service before the run ends")
    restart_reset_after_s: PositiveFloat = Field(
        default=600, description="uptime after which the restart counter of a service resets"
    )
    backoff_s: NonNegativeFloat = Field(default=0.5, description="wait before the first restart; doubles with each")
    backoff_max_s: NonNegativeFloat = Field(default=10, description="longest wait before a restart")
    ready_timeout_s: PositiveFloat = Field(
        default=120, description="limit from a service's start to its first healthy answer"
    )
    health_interval_s: PositiveFloat = Field(default=2, description="interval between two health checks of a server")
    health_timeout_s: PositiveFloat = Field(default=5, description="timeout of one health check")
    health_failures: PositiveInt = Field(
        default=6, description="failed checks in a row after which a service counts as hung"
    )
    hang_timeout_s: PositiveFloat = Field(
        default=1200,
        description="a trainer, worker or stage without output for this time counts as hung; set it above [trainer] "
        "no_data_timeout_s, after which the trainer ends and reports the reason",
    )
    stage_timeout_s: PositiveFloat = Field(default=7200, description="limit of one stage other than training")
    stop_timeout_s: PositiveFloat = Field(default=10, description="time from SIGTERM to SIGKILL")
    plain_interval_s: PositiveFloat = Field(
        default=5, description="interval between two progress lines without a terminal"
    )
    pass_environment: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\*?$")], ...] = Field(
        default=(),
        description="more environment variables for the services; NAME_* matches all names with the prefix NAME_",
    )
    threads: Threads = Field(default=Threads(), description="threads of the compute processes")
    gpus: Gpus = Field(default=Gpus(), description="GPUs of the compute processes")


class BrokerSettings(Table):
    """Table `[redis]`."""

    url: str = Field(
        default="",
        description="URL of a Redis 7 or Valkey 8; the environment variable REDIS_URL overrides it; without both, a "
        "local server is started",
    )
    password_file: str = Field(
        default="",
        description="file with the password of the Redis at url; REDIS_PASSWORD and REDIS_PASSWORD_FILE override it",
    )
    fsync: Literal["everysec", "always"] = Field(default="everysec", description="fsync of the local server's file")
    port: NonNegativeInt = Field(default=0, le=65535, description="port of the local server; 0: a free one")
    start_timeout_s: PositiveFloat = Field(
        default=30, description="limit from the local server's start to its first answer"
    )


class Listener(Table, extra="ignore"):
    """The fixed port in a service's own table; 0: a free one."""

    port: NonNegativeInt = Field(default=0, le=65535)


class Demonstrations(Table, extra="ignore"):
    """The keys of `[clone]` for recording demonstrations; the trainer reads the others."""

    demonstrations: PositiveInt = Field(default=300, description="tasks with expert episodes for training")
    validation: PositiveInt = Field(default=256, description="tasks of the validation split for early stopping")
    validation_split: str = Field(default="validation", description="name of the validation split")
    expert_noise: float = Field(
        default=0.0, ge=0, lt=1, description="fraction of turns with a random action instead of the expert's"
    )
    train_on_noise: bool = Field(default=False, description="also train on the turns with random actions")


# Keys of other services' tables, read to check their consistency. The services check the values; a test compares the
# defaults.


class PlayedGroups(Table, extra="ignore"):
    """Of `[trainer]`: groups, the limit of waiting for them, and the transport of weights."""

    task_split: str = "train"
    group_size: PositiveInt = 8
    push_transport: str = "shared"
    no_data_timeout_s: PositiveFloat = 900.0


class ChosenPlugins(Table, extra="ignore"):
    """Of `[trainer]`: the plugins, to which `--plugin` adds."""

    plugins: tuple[str, ...] = ()


class EvaluatedTasks(Table, extra="ignore"):
    """Of `[evaluation]`: the evaluation set's tasks."""

    split: str = "test"
    first: NonNegativeInt = 0
    count: PositiveInt = 512


class PolicyServer(Table, extra="ignore"):
    """Of `[inference]`: the engine."""

    engine: str = "embedded"
    vllm_python: Path = Path(".venv-vllm/bin/python")
    vllm_device: str = "cuda"


class AccessToken(Table, extra="ignore"):
    """Of `[environment]`: the token that its clients must send."""

    token: SecretStr | None = None


class ApiKey(Table, extra="ignore"):
    """Of `[inference]`: the key that clients of the model must send."""

    api_key: SecretStr | None = None


class ChosenTokenizer(Table, extra="ignore"):
    """Of `[policy]`: where the tokenizer comes from, if not from the policy."""

    tokenizer: str | None = None


class ExpertSplits(Table, extra="ignore"):
    """Of `[environment]`: evaluation splits on which the expert answers."""

    expert_splits: tuple[str, ...] = ()


class SessionLimits(Table, extra="ignore"):
    """Of `[environment]`: limits of requests."""

    workers: PositiveInt = 1
    capacity: PositiveInt = 1024
    max_sessions_per_client: PositiveInt | None = None
    max_session_ttl_s: PositiveFloat = 86_400.0
    max_batch: PositiveInt = 4096


class PlayLimits(Table, extra="ignore"):
    """Of `[rollout]`: sizes of requests, and the log interval."""

    batch_size: PositiveInt = 256
    session_ttl_s: PositiveFloat = 180.0
    report_every_s: PositiveFloat = 10.0


class Subject(Table, extra="ignore"):
    """Keys of another service's table that the launcher needs."""

    name: str = ""
    recipe: str = "sampo"
    path: str | None = None


def seed_from_environment() -> int | None:
    """ARLARENA_SEED.

    Raises:
        ConfigError: it is not a number of 0 or more.
    """
    text = os.environ.get("ARLARENA_SEED", "").strip()
    if not text:
        return None
    if not text.isdecimal():
        raise ConfigError(f"ARLARENA_SEED={text!r}: must be an integer of at least 0")
    return int(text)


def admin_token() -> str:
    """The admin token of the policy server: from the environment variable, else a random one."""
    token = os.environ.get(ADMIN_TOKEN) or secrets.token_urlsafe(24)
    hide(token)
    return token


def environment_token() -> str | None:
    """The environment server's token from its environment variable, or None."""
    token = os.environ.get(ENVIRONMENT_TOKEN) or None
    hide(token)
    return token


def api_key() -> str | None:
    """The policy server's API key from its environment variable, or None."""
    key = os.environ.get(API_KEY) or None
    hide(key)
    return key


def external_broker_url(settings: BrokerSettings) -> str:
    """URL of the user's Redis with its password: REDIS_URL, else `[redis] url`; empty for a local server.

    Raises:
        ConfigError: the file with the password cannot be read.
    """
    url = redis_url_from_environment() or settings.url
    return broker_url(url, os.environ, settings.password_file) if url else ""


def redis_url_from_environment() -> str:
    """REDIS_URL, or an empty string."""
    return os.environ.get("REDIS_URL", "").strip()


def inherited(service: str, extra: Sequence[str] = ()) -> dict[str, str]:
    """The environment variables for a process of `service`; see `child_environment`."""
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
