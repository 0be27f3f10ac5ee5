"""What a user can set of a run as a whole. No other file of the console reads the environment."""

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
        default="run", description="name of the run, its streams and, by default, its directory"
    )
    directory: str = Field(default="", description="the run's directory; empty: runs/<name>")
    seed: NonNegativeInt = Field(
        default=0, description="of weights, tasks and sampling; ARLARENA_SEED and --seed win over it"
    )

    @property
    def path(self) -> Path:
        """The run's directory."""
        return Path(self.directory or f"runs/{self.name}")


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


class Gpus(Table):
    """Table `[console.gpus]`: the GPUs of a process, by number; none named leaves it to the libraries.

    A trainer of several runs as one rank a GPU, under torchrun. How vLLM uses its own is `[inference] vllm_arguments`.
    """

    clone: tuple[NonNegativeInt, ...] = Field(default=(), description="GPUs of cloning, by number; none: all")
    trainer: tuple[NonNegativeInt, ...] = Field(
        default=(), description="GPUs of the trainer, one rank on each; none: all"
    )
    inference: tuple[NonNegativeInt, ...] = Field(default=(), description="GPUs of the policy server; none: all")

    def environment(self, table: str) -> dict[str, str]:
        """What shows a process its GPUs alone."""
        gpus: tuple[int, ...] = getattr(self, table)
        return {"CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in gpus)} if gpus else {}


class ConsoleSettings(Table):
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
    gpus: Gpus = Field(default=Gpus(), description="GPUs of the processes that compute")


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


class Listener(Table, extra="ignore"):
    """The fixed port that a service's own table may ask for; 0 is a free one."""

    port: NonNegativeInt = Field(default=0, le=65535)


class Demonstrations(Table, extra="ignore"):
    """What table `[clone]` says about the recording, which the launcher orders; the trainer reads the rest of it."""

    demonstrations: PositiveInt = Field(default=300, description="tasks whose expert episodes are learnt from")
    validation: PositiveInt = Field(default=256, description="tasks of the validation split that decide when to stop")
    validation_split: str = Field(default="validation", description="the environment's name of that split")
    expert_noise: float = Field(
        default=0.0, ge=0, lt=1, description="share of turns at which the expert does anything instead"
    )
    train_on_noise: bool = Field(default=False, description="learn these too: an expert that is not perfect")


# Below: what the launcher reads of other services' tables to check them against one another. Their owners check the
# values; a test compares the defaults with theirs.


class PlayedGroups(Table, extra="ignore"):
    """Of `[trainer]`: which groups are played, how long they are waited for, how weights get to the policy server."""

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
    """Of `[environment]`: bounds on what workers ask for."""

    workers: PositiveInt = 1
    capacity: PositiveInt = 1024
    max_sessions_per_client: PositiveInt | None = None
    max_session_ttl_s: PositiveFloat = 86_400.0
    max_batch: PositiveInt = 4096


class PlayLimits(Table, extra="ignore"):
    """Of `[rollout]`: what workers ask for, and how often they write to their log."""

    batch_size: PositiveInt = 256
    session_ttl_s: PositiveFloat = 180.0
    report_every_s: PositiveFloat = 10.0


class Subject(Table, extra="ignore"):
    """What the launcher needs to know of a table that belongs to somebody else."""

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
        raise ConfigError(f"ARLARENA_SEED={text!r}: must be a whole number of 0 or more")
    return int(text)


def admin_token() -> str:
    """The token of the policy server's administrator: that of the environment, else one that nobody else knows."""
    token = os.environ.get(ADMIN_TOKEN) or secrets.token_urlsafe(24)
    hide(token)
    return token


def environment_token() -> str | None:
    """The environment server's token, if the environment has one."""
    token = os.environ.get(ENVIRONMENT_TOKEN) or None
    hide(token)
    return token


def api_key() -> str | None:
    """The policy server's API key, if the environment has one."""
    key = os.environ.get(API_KEY) or None
    hide(key)
    return key


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
