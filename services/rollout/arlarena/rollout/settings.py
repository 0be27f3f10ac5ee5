"""Settings of rollouts. In this service, only this module reads environment variables.

`python -m arlarena.rollout.settings FILE` checks the tables [rollout] and [evaluation] of a file. It also checks the
keys of [environment] and [policy] that this service reads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from arlarena.proto.config import (
    ConfigError,
    Table,
    exit_on_config_error,
    load_part,
    load_table,
    parse_table,
    secret_from,
    variables_of,
)
from arlarena.proto.shared_settings import EnvironmentKeys, EvaluationKeys, PolicyKeys, RolloutKeys, run_seed
from arlarena.proto.streams.broker_address import broker_url


class RolloutSettings(RolloutKeys):
    """Table [rollout], for workers, evaluation and demonstrations."""

    renamed: ClassVar[Mapping[str, str]] = {
        "infra_patience_s": "service_retry_timeout_s",
    }

    groups_in_flight: PositiveInt = Field(
        32,
        description="maximum number of groups that one worker plays at the same time; a group counts as its "
        "fraction of unfinished episodes: with 2 of 8 episodes unfinished, it counts as 0.25",
    )
    lease_ttl_s: PositiveFloat = Field(
        60.0,
        description="the lease of a task expires after this time if the worker does not renew it; set the same value "
        "for all workers of a run",
    )
    lease_block_s: PositiveFloat = Field(
        1.0, description="maximum wait of one request for a task; SIGTERM takes effect after at most this time"
    )
    max_deliveries: PositiveInt = Field(
        5,
        description="maximum number of times that a task is delivered to a worker; if the last delivery also fails, "
        "the task becomes a dead letter and is not played again",
    )
    broker_timeout_s: PositiveFloat = Field(5.0, description="timeout of one Redis command")
    broker_reconnect_s: NonNegativeFloat = Field(
        30.0, description="maximum time for attempts to restore a lost connection to Redis"
    )
    broker_full_timeout_s: NonNegativeFloat = Field(
        600.0, description="maximum time for attempts to publish a group if the memory of Redis is full"
    )
    connect_timeout_s: PositiveFloat = Field(5.0, description="timeout for connecting to a service")
    generate_timeout_s: PositiveFloat = Field(
        120.0, description="timeout of one generation, including the wait in the server's queue"
    )
    environment_timeout_s: PositiveFloat = Field(
        90.0,
        description="timeout of one request to the environment server; set it above the server's step_timeout_s (75 s) "
        "and reset_timeout_s (60 s): then the server's error arrives first and names the slow operation",
    )
    request_retries: NonNegativeInt = Field(
        2, description="maximum number of retries of a request to an unavailable service"
    )
    episode_retries: NonNegativeInt = Field(
        5, description="maximum number of restarts of one episode after failures of a service"
    )
    service_retry_timeout_s: PositiveFloat = Field(
        120.0, description="maximum wait for a service that is unavailable or full"
    )
    batch_window_s: NonNegativeFloat = Field(
        0.005,
        description="calls to the environment server within this time are sent as one request; 0: the calls of one "
        "event-loop iteration",
    )
    drain_s: NonNegativeFloat = Field(
        20.0,
        description="maximum wait for the current groups after SIGTERM; then unfinished groups return to the queue",
    )

    heartbeat_file: Path | None = Field(
        None,
        description="file that a worker touches every report_every_s seconds; a health check can detect a hanging "
        "worker by the age of this file",
    )
    stop_file: Path | None = Field(
        None,
        description="if this file exists, the worker stops as after SIGTERM; the worker looks for the file every "
        "report_every_s seconds; example: summary.json of the run, because a finished run has this file",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.session_ttl_s <= self.generate_timeout_s:
            raise ValueError(
                f"session_ttl_s = {self.session_ttl_s:g} must be above generate_timeout_s = "
                f"{self.generate_timeout_s:g}, because a session is idle while the policy server generates"
            )
        return self


class EvaluationSettings(EvaluationKeys):
    """Table [evaluation]: the fixed evaluation set."""

    attempts: PositiveInt = Field(1, description="number of attempts per task")
    temperature: NonNegativeFloat = Field(1.0, description="sampling temperature; 0: greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="top-p sampling; 1: off")
    top_k: NonNegativeInt = Field(0, description="top-k sampling; 0: off")
    seed: int = Field(
        0, description="seed of resets and sampling; with the same seed, all policies get the same random numbers"
    )
    concurrency: PositiveInt = Field(128, description="maximum number of episodes that are played at the same time")
    episodes: NonNegativeInt | None = Field(
        None, description="number of episodes that are written to the episodes file; default: all episodes"
    )
    episodes_mb: PositiveFloat = Field(
        256.0, description="maximum size of the episodes file in MB; episodes that do not fit are left out"
    )


class Addresses(Table):
    """Addresses of the services, from the variables ARLARENA_{ENVIRONMENT,INFERENCE,REDIS}_URL or from flags.

    `environment_pods` (ARLARENA_ENVIRONMENT_PODS): URL of the environment server's pods, with {pod} in place of the
    pod's number. With this URL, requests about a session go directly to the session's pod.

    Secrets have no flags, because every user of the machine can see command lines. They are read from the variables
    ARLARENA_ENVIRONMENT_TOKEN, ARLARENA_INFERENCE_API_KEY and REDIS_PASSWORD. A secret can also be in a file. The
    variable with the same name and the ending _FILE then contains the path of the file.
    """

    environment_url: str = "http://127.0.0.1:8000"
    environment_pods: str | None = None
    environment_token: SecretStr | None = None
    inference_url: str = "http://127.0.0.1:8100"
    inference_api_key: SecretStr | None = None
    redis_url: str = "redis://127.0.0.1:6379/0"


def load_rollout(path: Path | None) -> RolloutSettings:
    """Read table [rollout]. Environment variables ARLARENA_ROLLOUT_* override values of the table.

    Raises:
        ConfigError: a value is invalid.
    """
    return load_table(path, "rollout", RolloutSettings, variables_of(os.environ, "ARLARENA_ROLLOUT_", RolloutSettings))


def load_evaluation(path: Path | None, flags: dict[str, Any] | None = None) -> EvaluationSettings:
    """Read table [evaluation]. Environment variables ARLARENA_EVALUATION_* override the table. `flags` override both.

    Raises:
        ConfigError: a value is invalid.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    variables = variables_of(os.environ, "ARLARENA_EVALUATION_", EvaluationSettings)
    return load_table(path, "evaluation", EvaluationSettings, {**variables, **given})


def load_addresses(flags: dict[str, str | None]) -> Addresses:
    """Returns the addresses. A flag overrides an environment variable. The defaults are addresses on 127.0.0.1.

    Raises:
        ConfigError: a value is invalid.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    values = {**variables_of(os.environ, "ARLARENA_", Addresses), **given}
    if url := values.get("redis_url"):
        values["redis_url"] = broker_url(url, os.environ)
    return parse_table("command line:", values, Addresses)


def load_seed(path: Path | None, flag: int | None = None) -> int:
    """Returns the run's seed: `flag`, else ARLARENA_SEED, else [run] seed, else 0.

    Raises:
        ConfigError: a value is invalid.
    """
    return run_seed(flag, os.environ, path)


def load_environment(path: Path | None) -> EnvironmentKeys:
    """Read `name` and `options` of table [environment]. ARLARENA_ENVIRONMENT_NAME overrides `name`.

    Raises:
        ConfigError: a value is invalid.
    """
    chosen = load_part(path, "environment", EnvironmentKeys, "name", "options")
    return chosen.model_copy(update={"name": os.environ.get("ARLARENA_ENVIRONMENT_NAME") or chosen.name})


def tokenizer_source(path: Path | None, flag: str | None) -> str:
    """Returns the tokenizer's directory or Hub name: `flag`, else [policy] tokenizer, else [policy] path.

    Raises:
        ConfigError: all three are missing.
    """
    if flag is not None:
        return flag
    policy = load_part(path, "policy", PolicyKeys)
    source = policy.tokenizer or policy.path
    if source is None:
        raise ConfigError(
            f"{path or 'command line'}: no tokenizer; either give --tokenizer DIRECTORY or set [policy] path"
        )
    return source


def api_key(variable: str) -> str | None:
    """Returns the API key in the environment variable `variable`, or None if the variable is not set.

    Messages and logs mask the key.
    """
    return secret_from(os.environ, variable)


def main() -> int:
    """Check the file given on the command line. Prints `ok` if the file is valid."""
    if len(sys.argv) != 2:
        raise ConfigError("usage: python -m arlarena.rollout.settings FILE")
    path = Path(sys.argv[1])
    load_rollout(path)
    load_evaluation(path)
    load_environment(path)
    load_part(path, "policy", PolicyKeys)
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(exit_on_config_error(main))
