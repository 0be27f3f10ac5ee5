"""The settings of the trainer, from the configuration file and from environment variables.

    python -m arlarena.trainer.settings run.toml [--machine]

checks the tables of this service and prints "ok". With --machine it also checks the policy's files and the GPUs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from arlarena.proto.config import ConfigError, exit_on_config_error, load_table, secret_from, variables_of
from arlarena.proto.shared_settings import CloneKeys, MetricsKeys, TrainerKeys, run_seed
from arlarena.proto.streams.broker_address import broker_url
from arlarena.proto.task_order import SEED_BLOCKS, SEED_STRIDE

if TYPE_CHECKING:
    from arlarena.trainer.objectives import Recipe


Beta = Annotated[float, Field(ge=0, lt=1)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


class CloneSettings(CloneKeys):
    """Table `[clone]`: behaviour cloning."""

    renamed: ClassVar[Mapping[str, str]] = {
        "slips": "expert_noise",
        "learn_slips": "train_on_noise",
        "final_lr_share": "min_lr_ratio",
    }

    lr: PositiveFloat = Field(3e-3, description="peak learning rate of AdamW")
    weight_decay: NonNegativeFloat = Field(0.01, description="weight decay of AdamW")
    warmup_steps: NonNegativeInt = Field(20, description="optimiser steps until the learning rate reaches lr")
    min_lr_ratio: float = Field(
        0.05, ge=0, le=1, description="learning rate at the last step, divided by lr; the learning rate falls linearly"
    )
    batch_rows: PositiveInt = Field(96, description="number of rows (turns) in one optimiser step")
    max_epochs: PositiveInt = Field(1, description="maximum number of passes over the demonstrations")
    patience: PositiveInt = Field(3, description="consecutive validations without improvement before cloning stops")
    min_improvement: NonNegativeFloat = Field(
        1e-3, description="decrease of the validation loss that counts as improvement, in nats per token"
    )
    min_validation_steps: PositiveInt = Field(20, description="minimum number of optimiser steps between validations")
    gradient_clip: PositiveFloat = Field(1.0, description="maximum gradient norm; larger gradients are scaled down")
    min_score: float = Field(
        0.9, lt=1, description="train only on episodes with a score above this value; the maximum score is 1"
    )
    device: Device = Field("auto", description="cpu, cuda, cuda:N (GPU number N), or auto (a GPU if there is one)")
    threads: PositiveInt | None = Field(None, description="torch threads; default: OMP_NUM_THREADS, else 1")

    def torch_device(self) -> str:
        """Return the torch device to compute on: "cpu" or "cuda:N"."""
        return device_of(self.device, "clone")


class TrainerSettings(TrainerKeys):
    """Table `[trainer]`. `recipe` and `recipe_overrides` define the method; all other settings belong to the run."""

    renamed: ClassVar[Mapping[str, str]] = {
        "final_lr_share": "min_lr_ratio",
        "first_task": "train_index_start",
        "push_patience_s": "push_retry_timeout_s",
        "stall_s": "no_data_timeout_s",
        "void_turns": "no_action_turns",
    }

    recipe_overrides: dict[str, Any] = Field(
        default_factory=dict, description="choices and hyperparameters that replace those of the recipe"
    )
    policy_anchor: Literal["bypass", "decoupled"] = Field(
        "bypass",
        description="policy in the denominator of the importance ratio; bypass: the sampler's policy; decoupled: the "
        "trainer's policy at the start of the training step",
    )
    correction: Literal["none", "truncate", "icepop", "geometric"] | None = Field(
        None,
        description="weights of tokens in the policy loss, computed from π_old/μ; π_old is the trainer's policy at the "
        "start of the step, μ the sampler's policy; default: truncate if policy_anchor is decoupled, else none",
    )
    correction_low: float = Field(
        0.5, ge=0, lt=1, description="lower bound of π_old/μ; used if correction is icepop or geometric"
    )
    correction_high: float = Field(2.0, gt=1, description="upper bound of π_old/μ; used if correction is not none")

    steps: PositiveInt = Field(100, description="training steps of the run; each step trains on one batch")
    max_minutes: PositiveFloat | None = Field(None, description="maximum training time in minutes")
    max_environment_steps: PositiveInt | None = Field(
        None,
        description="the run ends when its collected groups have this number of turns in total; for comparisons of "
        "methods on the same number of turns",
    )
    groups_per_step: PositiveInt = Field(16, description="number of groups in the batch of one training step")
    minibatch_groups: PositiveInt = Field(
        4,
        description="number of groups in one optimiser step; an incomplete batch has fewer optimiser steps, each with "
        "about this number of groups",
    )
    staleness: NonNegativeInt = Field(
        1, description="maximum age of a sample, in training steps; 0: train only on samples of the current weights"
    )
    cold_start_steps: NonNegativeInt = Field(
        0, description="number of training steps at the start of the run in which the filter drops no group"
    )
    rows: Literal["turns", "episodes"] = Field(
        "turns",
        description="content of one row (training sequence); turns: one turn; episodes: consecutive turns with a "
        "growing context",
    )
    no_action_turns: Literal["mask", "keep"] = Field(
        "mask",
        description="treatment of episodes that have a turn without an action (no code and no answer); mask: no "
        "training on these episodes, but their rewards count in the advantages of the group; keep: training on all "
        "episodes",
    )
    train_index_start: NonNegativeInt = Field(
        1_000_000,
        lt=2**32 - SEED_BLOCKS * SEED_STRIDE,
        description="index of the first training task in an endless split; cloning uses lower indices",
    )

    temperature: float = Field(
        1.0, ge=0.01, description="sampling temperature; the trainer computes log-probs at the same temperature"
    )
    max_response_tokens: PositiveInt = Field(512, description="maximum response length of a turn, in tokens")

    lr: PositiveFloat = Field(1e-6, description="peak learning rate of AdamW")
    lr_warmup_steps: NonNegativeInt = Field(0, description="training steps until the learning rate reaches lr")
    min_lr_ratio: float = Field(
        1.0, ge=0, le=1, description="final learning rate, divided by lr; the learning rate falls linearly; 1: constant"
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="betas of AdamW")
    weight_decay: NonNegativeFloat = Field(0.01, description="weight decay of AdamW")
    gradient_clip: PositiveFloat = Field(1.0, description="maximum gradient norm; larger gradients are scaled down")
    kl_coefficient: NonNegativeFloat = Field(
        0.01, description="weight of the KL divergence from the reference policy; 0: no reference policy"
    )
    entropy_coefficient: NonNegativeFloat = Field(0.0, description="weight of the entropy bonus")
    invalid_penalty: NonNegativeFloat = Field(
        0.1, description="penalty, subtracted from the reward of a turn with an invalid action or format"
    )
    advantage_scale: NonNegativeFloat = Field(
        1.0, description="factor by which advantages are multiplied; 0: control run without advantages"
    )

    device: Device = Field("auto", description="cpu, cuda, cuda:N (GPU number N), or auto (a GPU if there is one)")
    deterministic: bool = Field(
        True,
        description="use deterministic GPU kernels, so that a resumed run is bitwise reproducible; training is 2 to "
        "5 % slower",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="compute dtype of the layers; weights stay float32"
    )
    activation_checkpointing: bool = Field(False, description="recompute layers in the backward pass to save memory")
    tokens_per_microbatch: PositiveInt = Field(
        16_384, description="maximum tokens of one forward pass; limits memory and does not change the gradient"
    )
    logits_chunk_tokens: PositiveInt | None = Field(
        None, description="maximum number of tokens with logits in memory at the same time; default: 64 MB of logits"
    )
    threads: PositiveInt | None = Field(None, description="torch threads; default: OMP_NUM_THREADS, else 1")

    checkpoint_every: PositiveInt = Field(
        1,
        description="training steps between checkpoints; the stream entry of a group is acknowledged after a "
        "checkpoint contains the outcome of the group",
    )
    keep_checkpoints: PositiveInt = Field(3, description="number of newest checkpoints that are kept")
    record_groups_every: NonNegativeInt = Field(
        20,
        description="record all groups of every n-th training step: in RUN/groups for `arlarena replay`, and in "
        "RUN/records with the figures of each token for `arlarena view`; 0: never",
    )
    record_sample_groups: NonNegativeInt = Field(
        4, description="number of groups recorded in RUN/records at a step that is not recorded completely; 0: none"
    )
    record_mb: PositiveFloat = Field(
        512.0,
        description="maximum size of RUN/records in MB; if a new file does not fit, old files are deleted, first those "
        "of steps that were not recorded completely",
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = Field(
        ("tensorboard",),
        description="experiment trackers that get the metrics; tensorboard writes RUN/tensorboard; each of the others "
        "needs the extra of arlarena-trainer with its name, and reads the variables WANDB_*, MLFLOW_* or TRACKIO_*",
    )

    mismatch_alarm: PositiveFloat = Field(
        0.015,
        description="warn if mismatch_k3 (estimate of the KL divergence between sampler and trainer, in nats) is above "
        "this value",
    )
    publish_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="dtype of the weights for policy servers; bfloat16 needs a larger probe_tolerance"
    )
    broadcast_host: str = Field(
        "127.0.0.1",
        description="address of this trainer, for vLLM's workers; used if push_transport is nccl or gloo",
    )
    full_push_every: PositiveInt = Field(
        20,
        description="every n-th version is uploaded completely, other versions as differences; used if push_transport "
        "is http",
    )
    probe_tolerance: PositiveFloat = Field(
        1e-3,
        description="after a push of weights, maximum difference between the policy server's and the trainer's "
        "log-probs of the same tokens, in nats",
    )
    request_timeout_s: PositiveFloat = Field(60.0, description="timeout of a request to Redis")
    service_wait_s: PositiveFloat = Field(180.0, description="how long to wait for the environment server to start")
    push_retry_timeout_s: PositiveFloat = Field(180.0, description="how long a failed push of weights is retried")
    reissue_after_s: PositiveFloat = Field(
        20.0, description="if no group arrives for this time, the tasks of the missing groups are issued again"
    )
    max_unusable_in_a_row: PositiveInt = Field(
        32,
        description="the run ends after this number of consecutive unusable groups (groups that were not played, are "
        "invalid, or have no turn)",
    )
    max_skipped_steps: PositiveInt = Field(
        3,
        description="the run ends after this number of consecutive steps without a finite loss and gradient",
    )
    zero_gradient_alarm: NonNegativeInt = Field(
        5, description="warn after this number of consecutive steps with a gradient of exactly 0; 0: never"
    )
    lease_ttl_s: PositiveFloat = Field(
        15.0,
        description="validity of the lease without a heartbeat; the lease allows only one trainer per run; if the "
        "run's trainer crashed on another machine, a new trainer must wait for this time",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minibatch_groups > self.groups_per_step:
            raise ValueError(
                f"minibatch_groups = {self.minibatch_groups} is above groups_per_step = {self.groups_per_step}: set "
                f"minibatch_groups to {self.groups_per_step} or less"
            )
        if self.reissue_after_s >= self.no_data_timeout_s:
            raise ValueError(
                f"reissue_after_s = {self.reissue_after_s:g} must be below no_data_timeout_s = "
                f"{self.no_data_timeout_s:g}; otherwise the run ends before tasks are issued again"
            )
        return self

    def warnings(self) -> list[str]:
        """Return warnings about settings that do not fit `steps`. A short test may have such settings."""
        texts = []
        if self.lr_warmup_steps > self.steps:
            texts.append(f"lr_warmup_steps = {self.lr_warmup_steps} is above steps = {self.steps}: the "
                         f"learning rate never reaches lr")  # fmt: skip
        if self.steps <= self.cold_start_steps:
            texts.append(f"cold_start_steps = {self.cold_start_steps} covers all steps = {self.steps}: the filter of "
                         f"the recipe has no effect")  # fmt: skip
        return texts

    def torch_device(self) -> str:
        """Return the torch device to compute on: "cpu" or "cuda:N"."""
        return device_of(self.device, "trainer")

    @property
    def updates_per_batch(self) -> int:
        """The number of optimiser updates on a full batch."""
        return updates_of(self.groups_per_step, self.minibatch_groups)


def device_of(chosen: str, table: str) -> str:
    """Return the torch device for the setting `device` = `chosen` in `table`.

    "auto" is a GPU if there is one, else the CPU. If `chosen` has no GPU number, the number is the local rank of this
    process.

    Raises:
        ConfigError: the GPU does not exist.
    """
    import torch

    gpus = torch.cuda.device_count()
    if chosen == "cpu" or (chosen == "auto" and not gpus):
        return "cpu"
    number = int(chosen.partition(":")[2] or os.environ.get("LOCAL_RANK", "0"))
    if number >= gpus:
        raise ConfigError(
            f'[{table}] device = "{chosen}" means GPU {number}, but torch sees {gpus} GPUs; '
            'use "cpu", or start at most one rank per GPU'
        )
    return f"cuda:{number}"


def load_trainer(path: Path | None) -> TrainerSettings:
    """Read the table `[trainer]` of the configuration file `path`; None: use the defaults.

    ARLARENA_TRAINER_METRICS_HOST and ARLARENA_TRAINER_METRICS_PORT override `metrics_host` and `metrics_port`.

    Raises:
        ConfigError: a value is invalid.
    """
    return load_table(path, "trainer", TrainerSettings, variables_of(os.environ, "ARLARENA_TRAINER_", MetricsKeys))


def torchrun_rank() -> tuple[int, int]:
    """Return the rank of this process and the number of ranks from torchrun's variables; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def updates_of(groups: int, minibatch_groups: int) -> int:
    """Return the number of updates for `groups` groups, so that each update has about `minibatch_groups` groups."""
    return max(1, round(groups / minibatch_groups))


def load_recipe(settings: TrainerSettings, error_prefix: str = "") -> tuple[Recipe, tuple[str, ...]]:
    """Load the plugins, and check the recipe. Returns the recipe, and warnings about settings with little effect.

    `error_prefix`: the beginning of error messages, such as the path of the configuration file.

    Raises:
        ConfigError: a plugin cannot be loaded, the method or a choice is unknown, or a choice has no effect.
    """
    from arlarena.trainer.objectives import RecipeError, RunContext, check, load_plugins, recipe  # imports torch

    try:
        load_plugins(settings.plugins)
        method = recipe(settings.recipe, **settings.recipe_overrides)
        context = RunContext(
            updates_per_batch=settings.updates_per_batch,
            policy_anchor=settings.policy_anchor,
            group_size=settings.group_size,
        )
        if settings.policy_anchor == "bypass" and settings.correction not in (None, "none"):
            raise RecipeError(
                f"correction = {settings.correction!r} has no effect with policy_anchor = 'bypass', because π_old is "
                f"then the sampler's policy; either set policy_anchor = 'decoupled', or leave correction out"
            )
        return method, (*check(method, context), *settings.warnings())
    except RecipeError as error:
        raise ConfigError(f"{error_prefix}[trainer] {error}") from error


def chosen_seed(given: int | None, config: Path | None) -> int:
    """Return the run's seed: `given`, else `ARLARENA_SEED`, else `[run] seed`. An invalid seed raises ConfigError."""
    return run_seed(given, os.environ, config)


def admin_token() -> str | None:
    """Return the admin token of the policy servers (ARLARENA_INFERENCE_ADMIN_TOKEN, see `secret_from`), or None."""
    return secret_from(os.environ, "ARLARENA_INFERENCE_ADMIN_TOKEN")


def environment_token() -> str | None:
    """Return the token of the environment server (ARLARENA_ENVIRONMENT_TOKEN, see `secret_from`), or None."""
    return secret_from(os.environ, "ARLARENA_ENVIRONMENT_TOKEN")


def environment_url() -> str | None:
    """Return the URL of the environment server, from `ARLARENA_ENVIRONMENT_URL`; None if the variable is not set."""
    return os.environ.get("ARLARENA_ENVIRONMENT_URL") or None


def redis_url(given: str | None) -> str:
    """Return the URL of the broker: `given` or `ARLARENA_REDIS_URL`, with the password.

    The password comes from REDIS_PASSWORD, or from the file that REDIS_PASSWORD_FILE names.

    Raises:
        ConfigError: there is no URL, or the password file cannot be read.
    """
    url = given or os.environ.get("ARLARENA_REDIS_URL")
    if not url:
        raise ConfigError("no broker: give --redis-url or set ARLARENA_REDIS_URL, for example redis://127.0.0.1:6379/0")
    return broker_url(url, os.environ)


def main() -> int:
    """Check the file that the command line names; with `--machine`, also the policy's files and the GPUs."""
    from arlarena.trainer.preflight import check_file

    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--machine"]):
        print("usage: python -m arlarena.trainer.settings FILE [--machine]", file=sys.stderr)
        return 2
    check_file(Path(sys.argv[1]), machine=len(sys.argv) == 3)
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(exit_on_config_error(main))
