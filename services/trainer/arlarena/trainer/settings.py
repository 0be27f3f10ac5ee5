"""What a user can set of the trainer. No other file of this service reads the environment.

python -m arlarena.trainer.settings run.toml       checks the tables of this service and prints "ok"; with
                                                   --machine also the policy's files and what this machine offers
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from arlarena.proto.config import ConfigError, exit_on_config_error, secret_from
from arlarena.proto.shared_settings import CloneKeys, TrainerKeys, run_seed
from arlarena.proto.streams.broker_address import broker_url
from arlarena.proto.task_order import SEED_BLOCKS, SEED_STRIDE

if TYPE_CHECKING:
    from arlarena.trainer.objectives import Recipe


Beta = Annotated[float, Field(ge=0, lt=1)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


class CloneSettings(CloneKeys):
    """Table `[clone]`: behaviour cloning. `rooms`-like counts belong to the recording, not to this table."""

    renamed: ClassVar[Mapping[str, str]] = {
        "slips": "expert_noise",
        "learn_slips": "train_on_noise",
        "final_lr_share": "min_lr_ratio",
    }

    lr: PositiveFloat = Field(3e-3, description="learning rate of AdamW")
    weight_decay: NonNegativeFloat = Field(0.01, description="of AdamW")
    warmup_steps: NonNegativeInt = Field(20, description="optimiser steps over which the rate rises to lr")
    min_lr_ratio: float = Field(0.05, ge=0, le=1, description="the rate falls linearly to this share of lr at the end")
    batch_rows: PositiveInt = Field(96, description="rows (turns) of one optimiser step")
    max_epochs: PositiveInt = Field(1, description="how often each demonstration is seen at most")
    patience: PositiveInt = Field(3, description="validations without improvement before it stops")
    min_improvement: NonNegativeFloat = Field(1e-3, description="nats a token that count as an improvement")
    min_validation_steps: PositiveInt = Field(20, description="at least this many optimiser steps between validations")
    gradient_clip: PositiveFloat = Field(1.0, description="longest gradient, as a norm; longer ones are scaled down")
    min_score: float = Field(
        0.9, lt=1, description="only episodes that scored above this are learnt from; scores end at 1"
    )
    device: Device = Field("auto", description="cuda, cpu, or auto: a GPU where there is one")
    threads: PositiveInt | None = Field(None, description="torch threads; default: OMP_NUM_THREADS, else 1")

    def torch_device(self) -> str:
        """The device to compute on, see `device_of`."""
        return device_of(self.device, "clone")


class TrainerSettings(TrainerKeys):
    """Table `[trainer]`. The method is `recipe` with `recipe_overrides`; the rest belongs to the run."""

    renamed: ClassVar[Mapping[str, str]] = {
        "final_lr_share": "min_lr_ratio",
        "first_task": "train_index_start",
        "push_patience_s": "push_retry_timeout_s",
        "stall_s": "no_data_timeout_s",
        "void_turns": "no_action_turns",
    }

    recipe_overrides: dict[str, Any] = Field(
        default_factory=dict, description="choices of the method that differ from its row"
    )
    policy_anchor: Literal["bypass", "decoupled"] = Field(
        "bypass",
        description="what ratios are anchored at: bypass, the sampler's log-probs; decoupled, π_old computed at the "
        "start of the step",
    )
    correction: Literal["none", "truncate", "icepop", "geometric"] | None = Field(
        None, description="how π_old/μ weighs a decoupled step; default: truncate, and none under bypass"
    )
    correction_low: float = Field(0.5, ge=0, lt=1, description="lower bound of that ratio (icepop, geometric)")
    correction_high: float = Field(2.0, gt=1, description="upper bound of that ratio")

    steps: PositiveInt = Field(100, description="optimiser steps (batches) of the run")
    max_minutes: PositiveFloat | None = Field(None, description="stop after this long even if steps remain")
    max_environment_steps: PositiveInt | None = Field(
        None, description="stop after this many turns even if steps remain; compares methods at equal experience"
    )
    groups_per_step: PositiveInt = Field(16, description="groups of one batch")
    minibatch_groups: PositiveInt = Field(
        4,
        description="groups of one update; a batch that the filter left small gets fewer, not noisier ones",
    )
    staleness: NonNegativeInt = Field(1, description="optimiser steps that a sample may be behind; 0 is synchronous")
    cold_start_steps: NonNegativeInt = Field(0, description="first steps, in which the filter drops no group")
    rows: Literal["turns", "episodes"] = Field(
        "turns", description="what a row is: a turn, or all turns of an episode whose context only grows"
    )
    no_action_turns: Literal["mask", "keep"] = Field(
        "mask",
        description="episodes in which a step did nothing (no code and no answer): mask scores them with their group "
        "and learns from none of their tokens, keep learns from them as from others",
    )
    train_index_start: NonNegativeInt = Field(
        1_000_000,
        lt=2**32 - SEED_BLOCKS * SEED_STRIDE,
        description="splits without an end: index of the first training task; cloning uses low ones",
    )

    temperature: float = Field(1.0, ge=0.01, description="of the sampling, and of the log-probs that are trained on")
    max_response_tokens: PositiveInt = Field(512, description="longest response of a turn")

    lr: PositiveFloat = Field(1e-6, description="learning rate of AdamW")
    lr_warmup_steps: NonNegativeInt = Field(0, description="steps over which the rate rises to lr")
    min_lr_ratio: float = Field(
        1.0, ge=0, le=1, description="the rate falls linearly to this share of lr at the end; 1 keeps it"
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="of AdamW")
    weight_decay: NonNegativeFloat = Field(0.01, description="of AdamW")
    gradient_clip: PositiveFloat = Field(1.0, description="longest gradient, as a norm; longer ones are scaled down")
    kl_coefficient: NonNegativeFloat = Field(
        0.01, description="weight of the KL divergence from the reference policy; 0: no reference"
    )
    entropy_coefficient: NonNegativeFloat = Field(0.0, description="weight of the entropy bonus")
    invalid_penalty: NonNegativeFloat = Field(
        0.1, description="taken off the reward of an invalid or badly formatted turn"
    )
    advantage_scale: NonNegativeFloat = Field(1.0, description="0 is the control: everything but the advantages")

    device: Device = Field("auto", description="cuda, cpu, or auto: a GPU where there is one")
    deterministic: bool = Field(
        True,
        description="on a GPU: the same numbers every time, so that a run resumes bitwise as on a CPU; costs 2 to 5 %",
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the layers; weights stay float32")
    activation_checkpointing: bool = Field(False, description="compute layers twice instead of keeping what they made")
    tokens_per_microbatch: PositiveInt = Field(
        16_384, description="tokens that go through the policy at once; bounds memory, not the gradient"
    )
    logits_chunk_tokens: PositiveInt | None = Field(
        None, description="tokens whose logits exist at once; default: 64 MB of them"
    )
    threads: PositiveInt | None = Field(None, description="torch threads; default: OMP_NUM_THREADS, else 1")

    checkpoint_every: PositiveInt = Field(
        1, description="steps between checkpoints; groups are acknowledged when a checkpoint covers them"
    )
    keep_checkpoints: PositiveInt = Field(3, description="checkpoints that are kept")
    record_groups_every: NonNegativeInt = Field(20, description="save that step's groups for replay; 0 never")

    mismatch_alarm: PositiveFloat = Field(0.015, description="mean k3 between sampler and trainer")
    publish_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the weights that are served; bfloat16 needs a wider probe_tolerance"
    )
    broadcast_host: str = Field("127.0.0.1", description="nccl, gloo: where vLLM's workers reach this trainer")
    full_push_every: PositiveInt = Field(20, description="http: steps between whole files, the others send deltas")
    probe_tolerance: PositiveFloat = Field(1e-3, description="largest |Δ log-prob| that served weights may show")
    request_timeout_s: PositiveFloat = Field(60.0, description="limit of one answer of Redis")
    service_wait_s: PositiveFloat = Field(180.0, description="how long an environment server that starts is waited for")
    push_retry_timeout_s: PositiveFloat = Field(180.0, description="how long a push is retried while a server restarts")
    reissue_after_s: PositiveFloat = Field(20.0, description="silence after which outstanding tasks are issued again")
    max_unusable_in_a_row: PositiveInt = Field(
        32,
        description="groups in a row that cannot be used (dead letters, bad messages, no turn) before the run ends",
    )
    max_skipped_steps: PositiveInt = Field(
        3, description="steps in a row without one finite update before the run ends"
    )
    zero_gradient_alarm: NonNegativeInt = Field(
        5, description="steps in a row whose gradient is exactly 0 before the trainer warns; 0 never"
    )
    lease_ttl_s: PositiveFloat = Field(
        15.0, description="how long after its last sign of life a trainer on another machine still owns the run"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minibatch_groups > self.groups_per_step:
            raise ValueError(
                f"minibatch_groups = {self.minibatch_groups} is above groups_per_step = {self.groups_per_step}: an "
                f"update has at most the groups of its step; set minibatch_groups to {self.groups_per_step} or less"
            )
        if self.reissue_after_s >= self.no_data_timeout_s:
            raise ValueError(
                f"reissue_after_s = {self.reissue_after_s:g} must be below no_data_timeout_s = "
                f"{self.no_data_timeout_s:g}: the run would end before a task is issued again"
            )
        return self

    def warnings(self) -> list[str]:
        """Choices that cannot act in a run of `steps`: a short trial of a longer run is legitimate."""
        found = []
        if self.lr_warmup_steps > self.steps:
            found.append(f"lr_warmup_steps = {self.lr_warmup_steps} is above steps = {self.steps}: the rate never "
                         f"reaches lr")  # fmt: skip
        if self.steps <= self.cold_start_steps:
            found.append(f"cold_start_steps = {self.cold_start_steps} covers all steps = {self.steps}: the filter of "
                         f"the recipe never acts")  # fmt: skip
        return found

    def torch_device(self) -> str:
        """The device to compute on, see `device_of`."""
        return device_of(self.device, "trainer")

    @property
    def updates_per_batch(self) -> int:
        """Optimiser updates on a full batch."""
        return updates_of(self.groups_per_step, self.minibatch_groups)


def device_of(chosen: str, table: str) -> str:
    """The device that `device` of `table` stands for: a GPU by its number, which is a rank's own on this host, or cpu.

    Raises:
        ConfigError: it is a GPU that is not there.
    """
    import torch

    gpus = torch.cuda.device_count()
    if chosen == "cpu" or (chosen == "auto" and not gpus):
        return "cpu"
    number = int(chosen.partition(":")[2] or os.environ.get("LOCAL_RANK", "0"))
    if number >= gpus:
        raise ConfigError(
            f'[{table}] device = "{chosen}" is GPU {number} here, and torch sees {gpus} of them; '
            'take "cpu", or no more ranks than GPUs'
        )
    return f"cuda:{number}"


def torchrun_rank() -> tuple[int, int]:
    """The rank of this process and the number of ranks, as torchrun's variables give them; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def updates_of(groups: int, minibatch_groups: int) -> int:
    """How many updates `groups` groups give: as near to `minibatch_groups` each as equal shares allow."""
    return max(1, round(groups / minibatch_groups))


def chosen_recipe(settings: TrainerSettings, where: str = "") -> tuple[Recipe, tuple[str, ...]]:
    """The method, checked against the run, and warnings about choices that will hardly act. `where` begins the message
    of an error.

    Raises:
        ConfigError: a plugin that cannot be loaded, unknown method or choice, or a combination that is provably dead.
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
                f"correction = {settings.correction!r} is dead under policy_anchor = 'bypass', where the sampler's "
                f"log-probabilities are the anchor; take policy_anchor = 'decoupled'"
            )
        return method, (*check(method, context), *settings.warnings())
    except RecipeError as error:
        raise ConfigError(f"{where}[trainer] {error}") from error


def chosen_seed(given: int | None, config: Path | None) -> int:
    """The run's seed: `given`, else `ARLARENA_SEED`, else `[run] seed`. Raises ConfigError."""
    return run_seed(given, os.environ, config)


def admin_token() -> str | None:
    """The token that the policy servers ask for before they take weights (`ARLARENA_INFERENCE_ADMIN_TOKEN`)."""
    return secret_from(os.environ, "ARLARENA_INFERENCE_ADMIN_TOKEN")


def environment_token() -> str | None:
    """The token that the environment server asks for (`ARLARENA_ENVIRONMENT_TOKEN`)."""
    return secret_from(os.environ, "ARLARENA_ENVIRONMENT_TOKEN")


def environment_url() -> str | None:
    """Where the environment server is, if no flag says so (`ARLARENA_ENVIRONMENT_URL`)."""
    return os.environ.get("ARLARENA_ENVIRONMENT_URL") or None


def redis_url(given: str | None) -> str:
    """The broker: `given`, else `ARLARENA_REDIS_URL`; its password may come from REDIS_PASSWORD or a file.

    Raises:
        ConfigError: neither names one, or the password file cannot be read.
    """
    url = given or os.environ.get("ARLARENA_REDIS_URL")
    if not url:
        raise ConfigError("no broker: give --redis-url or set ARLARENA_REDIS_URL, for example redis://127.0.0.1:6379/0")
    return broker_url(url, os.environ)


def main() -> int:
    """Check the file named on the command line; with `--machine`, also whether it can run here."""
    from arlarena.trainer.preflight import check_file

    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--machine"]):
        print("usage: python -m arlarena.trainer.settings FILE [--machine]", file=sys.stderr)
        return 2
    check_file(Path(sys.argv[1]), machine=len(sys.argv) == 3)
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(exit_on_config_error(main))
