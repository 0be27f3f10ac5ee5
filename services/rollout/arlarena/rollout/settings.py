"""Settings of rollouts. No other file of this service reads environment variables or the configuration file.

`python -m arlarena.rollout.settings FILE` checks the tables [rollout] and [evaluation] of a file and the tokenizer of
[policy].
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from arlarena.proto.config import ConfigError, Table, exit_on_config_error, load_table, parse_table
from arlarena.proto.streams.broker_address import broker_url


class RolloutSettings(Table):
    """Table [rollout], for workers, evaluation and demonstrations."""

    renamed: ClassVar[Mapping[str, str]] = {
        "infra_patience_s": "service_retry_timeout_s",
    }

    groups_in_flight: PositiveInt = Field(32, description="groups that one worker plays at the same time")
    lease_ttl_s: PositiveFloat = Field(
        60.0, description="a lease expires after this time without renewal; the same for all workers of a run"
    )
    lease_block_s: PositiveFloat = Field(
        1.0, description="longest wait of one request for a task; also the longest delay of a stop by SIGTERM"
    )
    max_deliveries: PositiveInt = Field(5, description="deliveries of a task before it becomes a dead letter")
    broker_timeout_s: PositiveFloat = Field(5.0, description="timeout of one Redis command")
    broker_reconnect_s: NonNegativeFloat = Field(30.0, description="how long a lost connection to Redis is retried")
    broker_full_timeout_s: NonNegativeFloat = Field(
        600.0, description="how long publishing a group is retried while the memory of Redis is full"
    )
    connect_timeout_s: PositiveFloat = Field(5.0, description="timeout for connecting to a service")
    generate_timeout_s: PositiveFloat = Field(
        120.0, description="timeout of one generation, including the wait in the server's queue"
    )
    environment_timeout_s: PositiveFloat = Field(
        90.0,
        description="timeout of one request to the environment server; above the server's step_timeout_s (75 s) and "
        "reset_timeout_s (60 s), whose own error names what was slow",
    )
    session_ttl_s: PositiveFloat = Field(
        180.0, description="idle time after which a session ends, also the sessions of a killed worker"
    )
    request_retries: NonNegativeInt = Field(2, description="retries of one request to an unavailable service")
    episode_retries: NonNegativeInt = Field(5, description="restarts of one episode after failures of a service")
    service_retry_timeout_s: PositiveFloat = Field(
        120.0, description="how long to wait for a service that is down or full"
    )
    batch_window_s: NonNegativeFloat = Field(
        0.005, description="environment calls within this time share one request; 0: one event-loop iteration"
    )
    batch_size: PositiveInt = Field(256, description="most calls in one request; use 1 if step times vary widely")
    report_every_s: PositiveFloat = Field(10.0, description="interval between two log lines of a worker's counters")
    drain_s: NonNegativeFloat = Field(
        20.0, description="time for groups in flight to finish after SIGTERM; then they are returned to the queue"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.session_ttl_s <= self.generate_timeout_s:
            raise ValueError(
                "session_ttl_s must be above generate_timeout_s: a session is idle while the policy answers"
            )
        return self


class EvaluationSettings(Table):
    """Table [evaluation]: the fixed evaluation set."""

    split: str = Field("test", description="the environment's split with the evaluation set")
    first: NonNegativeInt = Field(0, description="index of the evaluation set's first task")
    count: PositiveInt = Field(512, description="tasks of the evaluation set")
    attempts: PositiveInt = Field(1, description="attempts per task")
    temperature: NonNegativeFloat = Field(1.0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="1 disables top-p filtering")
    top_k: NonNegativeInt = Field(0, description="0 disables top-k filtering")
    max_tokens: PositiveInt = Field(64, description="longest response")
    seed: int = Field(0, description="sampling seed; equal seeds give every policy the same random numbers")
    concurrency: PositiveInt = Field(128, description="episodes in flight")
    episodes: NonNegativeInt = Field(16, description="episodes in the episodes file")


class RunSeed(BaseModel):
    """The part of table [run] that rollouts read; the console checks the rest of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seed: int = Field(0, description="the run's seed; ARLARENA_SEED overrides it")


class EnvironmentPlayed(BaseModel):
    """The part of table [environment] that rollouts read; the environment server checks the rest of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str | None = Field(None, description="name of the environment; ARLARENA_ENVIRONMENT_NAME overrides it")
    options: dict[str, Any] = Field(default_factory=dict, description="the environment's own options")


class PolicyTokenizer(BaseModel):
    """The part of table [policy] that rollouts read; the trainer checks the rest of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    path: str | None = Field(None, description="the policy's Hugging Face directory, or its name on the hub")
    tokenizer: str | None = Field(None, description="directory or hub name of another tokenizer")


class Addresses(Table):
    """Addresses of the services. Flags override ARLARENA_ENVIRONMENT_URL, _INFERENCE_URL and _REDIS_URL. Secrets have
    no flags, because every user of the machine can see a command line: set ARLARENA_ENVIRONMENT_TOKEN, and
    REDIS_PASSWORD or REDIS_PASSWORD_FILE.
    """

    environment_url: str = "http://127.0.0.1:8000"
    environment_token: SecretStr | None = None
    inference_url: str = "http://127.0.0.1:8100"
    inference_api_key: SecretStr | None = None
    redis_url: str = "redis://127.0.0.1:6379/0"


def from_environment(prefix: str, model: type[BaseModel]) -> dict[str, Any]:
    """Values of `ARLARENA_<PREFIX>_<FIELD>` for the fields of `model`; an empty variable counts as absent."""
    values = {name: os.environ.get(f"ARLARENA_{prefix}{name}".upper()) for name in model.model_fields}
    return {name: value for name, value in values.items() if value}


def load_rollout(path: Path | None) -> RolloutSettings:
    """Table [rollout], with ARLARENA_ROLLOUT_* on top. Raises ConfigError."""
    return load_table(path, "rollout", RolloutSettings, from_environment("rollout_", RolloutSettings))


def load_evaluation(path: Path | None, flags: dict[str, Any] | None = None) -> EvaluationSettings:
    """Table [evaluation], with ARLARENA_EVALUATION_* and then the flags on top. Raises ConfigError."""
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    return load_table(
        path, "evaluation", EvaluationSettings, {**from_environment("evaluation_", EvaluationSettings), **given}
    )


def load_addresses(flags: dict[str, str | None]) -> Addresses:
    """Addresses from the flags, else from environment variables, else the defaults on 127.0.0.1."""
    given = {key: value for key, value in flags.items() if value is not None}
    found = {**from_environment("", Addresses), **given}
    if url := found.get("redis_url"):
        found["redis_url"] = broker_url(url, os.environ)
    return parse_table("command line:", found, Addresses)


def load_seed(path: Path | None, flag: int | None = None) -> int:
    """The run's seed: the flag, else ARLARENA_SEED, else `seed` of table [run], else 0. Raises ConfigError."""
    return load_table(
        path, "run", RunSeed, from_environment("", RunSeed) | ({} if flag is None else {"seed": flag})
    ).seed


def load_environment(path: Path | None) -> EnvironmentPlayed:
    """Name and options of table [environment], with ARLARENA_ENVIRONMENT_NAME on top. Raises ConfigError."""
    name = os.environ.get("ARLARENA_ENVIRONMENT_NAME") or None
    return load_table(path, "environment", EnvironmentPlayed, {"name": name})


def tokenizer_source(path: Path | None, flag: str | None) -> str:
    """Directory or hub name of the tokenizer: the flag, else `tokenizer` of table [policy], else its `path`.

    Raises:
        ConfigError: none of them is given.
    """
    if flag is not None:
        return flag
    policy = load_table(path, "policy", PolicyTokenizer)
    source = policy.tokenizer or policy.path
    if source is None:
        raise ConfigError(f"{path or 'command line'}: no tokenizer; give --tokenizer DIRECTORY or set path in [policy]")
    return source


def main() -> int:
    """Check the file named on the command line; prints ok."""
    if len(sys.argv) != 2:
        raise ConfigError("usage: python -m arlarena.rollout.settings FILE")
    path = Path(sys.argv[1])
    load_rollout(path)
    load_evaluation(path)
    load_environment(path)
    load_table(path, "policy", PolicyTokenizer)
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(exit_on_config_error(main))
