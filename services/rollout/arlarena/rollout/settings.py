"""What a user can set of rollouts. No other file of this service reads the environment or the configuration file.

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
    """Table [rollout]: how a worker plays. The same limits hold for evaluation and demonstrations."""

    renamed: ClassVar[Mapping[str, str]] = {
        "infra_patience_s": "service_retry_timeout_s",
    }

    groups_in_flight: PositiveInt = Field(32, description="how many groups' episodes one worker plays at a time")
    lease_ttl_s: PositiveFloat = Field(
        60.0, description="a lease not renewed for so long is lost; alike for all workers of a run"
    )
    lease_block_s: PositiveFloat = Field(
        1.0, description="how long one request for a task waits; bounds the reaction to SIGTERM"
    )
    max_deliveries: PositiveInt = Field(5, description="hand-outs of a task before it becomes a dead letter")
    broker_timeout_s: PositiveFloat = Field(5.0, description="limit of one answer of Redis")
    broker_reconnect_s: NonNegativeFloat = Field(30.0, description="how long a lost Redis is tried again")
    broker_full_timeout_s: NonNegativeFloat = Field(
        600.0, description="how long a group is kept to be published while the memory of Redis is full"
    )
    connect_timeout_s: PositiveFloat = Field(5.0, description="limit of opening a connection to a service")
    generate_timeout_s: PositiveFloat = Field(
        120.0, description="limit of one generation, time in the server's queue included"
    )
    environment_timeout_s: PositiveFloat = Field(
        90.0,
        description="limit of one request to the environment server; above the server's step_timeout_s (75 s) and "
        "reset_timeout_s (60 s), whose own error names what was slow",
    )
    request_retries: NonNegativeInt = Field(2, description="repetitions of one request to an unavailable service")
    episode_retries: NonNegativeInt = Field(5, description="fresh starts of one episode after failures of a service")
    service_retry_timeout_s: PositiveFloat = Field(
        120.0, description="how long to wait for a service that is down or full"
    )
    batch_window_s: NonNegativeFloat = Field(
        0.005, description="environment calls within this time share one request; 0: one loop tick"
    )
    drain_s: NonNegativeFloat = Field(
        20.0, description="how long SIGTERM lets groups in flight finish before they are given back"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.session_ttl_s <= self.generate_timeout_s:
            raise ValueError(
                "session_ttl_s must be above generate_timeout_s: a session is idle while the policy answers"
            )
        return self


class EvaluationSettings(EvaluationKeys):
    """Table [evaluation]: the fixed evaluation set."""

    attempts: PositiveInt = Field(1, description="attempts per task")
    temperature: NonNegativeFloat = Field(1.0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="1 keeps the whole distribution")
    top_k: NonNegativeInt = Field(0, description="0 keeps the whole distribution")
    seed: int = Field(0, description="seeds the sampling, so that two policies meet the same randomness")
    concurrency: PositiveInt = Field(128, description="episodes in flight")
    episodes: NonNegativeInt = Field(16, description="episodes written out turn by turn where a file is asked for")


class Addresses(Table):
    """Where the services are. Flags win over ARLARENA_ENVIRONMENT_URL, _INFERENCE_URL and _REDIS_URL. The environment
    server's token comes from ARLARENA_ENVIRONMENT_TOKEN alone: a flag would show it to everybody on the machine. So
    does a flag with a password of Redis: REDIS_PASSWORD_FILE or REDIS_PASSWORD give it.
    """

    environment_url: str = "http://127.0.0.1:8000"
    environment_token: SecretStr | None = None
    inference_url: str = "http://127.0.0.1:8100"
    inference_api_key: SecretStr | None = None
    redis_url: str = "redis://127.0.0.1:6379/0"


def load_rollout(path: Path | None) -> RolloutSettings:
    """Table [rollout], with ARLARENA_ROLLOUT_* on top. Raises ConfigError."""
    return load_table(path, "rollout", RolloutSettings, variables_of(os.environ, "ARLARENA_ROLLOUT_", RolloutSettings))


def load_evaluation(path: Path | None, flags: dict[str, Any] | None = None) -> EvaluationSettings:
    """Table [evaluation], with ARLARENA_EVALUATION_* and then the flags on top. Raises ConfigError."""
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    variables = variables_of(os.environ, "ARLARENA_EVALUATION_", EvaluationSettings)
    return load_table(path, "evaluation", EvaluationSettings, {**variables, **given})


def load_addresses(flags: dict[str, str | None]) -> Addresses:
    """Addresses from the flags, else from the environment, else this machine's defaults."""
    given = {key: value for key, value in flags.items() if value is not None}
    found = {**variables_of(os.environ, "ARLARENA_", Addresses), **given}
    if url := found.get("redis_url"):
        found["redis_url"] = broker_url(url, os.environ)
    return parse_table("command line:", found, Addresses)


def load_seed(path: Path | None, flag: int | None = None) -> int:
    """The run's seed: the flag, else ARLARENA_SEED, else `seed` of table [run], else 0. Raises ConfigError."""
    return run_seed(flag, os.environ, path)


def load_environment(path: Path | None) -> EnvironmentKeys:
    """Name and options of table [environment], with ARLARENA_ENVIRONMENT_NAME on top. Raises ConfigError."""
    chosen = load_part(path, "environment", EnvironmentKeys, "name", "options")
    return chosen.model_copy(update={"name": os.environ.get("ARLARENA_ENVIRONMENT_NAME") or chosen.name})


def tokenizer_source(path: Path | None, flag: str | None) -> str:
    """Directory or hub name of the tokenizer: the flag, else `tokenizer` of table [policy], else its `path`.

    Raises:
        ConfigError: none of them is given.
    """
    if flag is not None:
        return flag
    policy = load_part(path, "policy", PolicyKeys)
    source = policy.tokenizer or policy.path
    if source is None:
        raise ConfigError(f"{path or 'command line'}: no tokenizer; give --tokenizer DIRECTORY or set path in [policy]")
    return source


def teacher_key(variable: str) -> str | None:
    """The API key of a teacher, which the user keeps in the environment variable `variable`."""
    return secret_from(os.environ, variable)


def main() -> int:
    """Check the file named on the command line; prints ok."""
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
