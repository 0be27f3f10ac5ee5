"""Behaviour cloning: supervised learning on the response tokens of successful multi-turn episodes.

A file of demonstrations contains groups of episodes, or conversations (see `conversations.py`). The rollout service
records groups: episodes of a model, or of the environment's expert (a program that solves the tasks). Episodes with a
score of at most `min_score` are left out (rejection fine-tuning). Validation episodes come from a separate file.

Training ends after `max_epochs` epochs. Training ends earlier if the validation loss has not improved in the last
`patience` validations. The result is the policy with the lowest validation loss.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from arlarena.proto.config import ConfigError
from arlarena.proto.telemetry import Logger
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Group, SchemaError, read_groups
from arlarena.trainer.batching.packing import TrainingSample, micro_batches
from arlarena.trainer.batching.scoring import training_sample
from arlarena.trainer.cloning.conversations import SUFFIXES, conversation_rows, read_conversations
from arlarena.trainer.learning.optimizer import adamw, lr_multiplier, set_rate
from arlarena.trainer.metrics.progress import Progress
from arlarena.trainer.model.forward import Scorer
from arlarena.trainer.preflight import check_readable
from arlarena.trainer.settings import CloneSettings

# Maximum number of tokens in one forward pass. It limits the memory, and does not change the gradient.
_TOKENS_AT_ONCE = 16_384
# Minimum time between two progress records, in seconds. The launcher's plain output prints less often than this.
_PROGRESS_EVERY_S = 2.0


class CloneError(RuntimeError):
    """Cloning cannot continue. The message contains the reason."""


@dataclass(frozen=True, slots=True)
class CloneResult:
    """The result of cloning.

    `turns`: number of training rows. `validation_loss`: the lowest validation loss, in nats per response token.
    `best_step`: the step with this loss. `stopped`: the reason for the end: `max_epochs`, or `validation` (the
    validation loss no longer improved).
    """

    steps: int
    epochs: float
    turns: int
    validation_loss: float
    best_step: int
    stopped: str
    seconds: float

    def as_dict(self) -> dict[str, float | str]:
        """Return the content of clone.json."""
        return asdict(self)


def load_demonstrations(path: Path, min_score: float) -> list[Group]:
    """Read the groups of the file `path`.

    Episodes without a turn and episodes with a score of at most `min_score` are removed. Groups without a remaining
    episode are left out.

    Raises:
        ConfigError: the file cannot be read or is not a file of groups, or no episode remains.
    """
    check_readable(path)
    try:
        groups = read_groups(path)
    except SchemaError as error:
        reason = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise ConfigError(f"demonstrations {reason}") from error
    kept = []
    for group in groups:
        good = tuple(each for each in group.trajectories if each.score > min_score and each.turns)
        if good:
            group.trajectories = good
            kept.append(group)
    if not kept:
        raise ConfigError(
            f"demonstrations {path}: none of {counted(len(groups), 'group')} has an episode scored above {min_score}"
        )
    return kept


def read_rows(path: Path, min_score: float, model: str) -> list[TrainingSample]:
    """Return the rows (training samples) of a file of demonstrations.

    The file contains groups of the rollout service, or conversations as JSON lines (see `conversations.py`).

    Raises:
        ConfigError: the file cannot be read or has no usable demonstration. For conversations, also if the tokenizer of
            `model` has no chat template or no end-of-sequence token.
    """
    if path.suffix in SUFFIXES:
        return conversation_rows(read_conversations(path, min_score), model)
    return demonstration_rows(load_demonstrations(path, min_score))


def demonstration_rows(groups: Sequence[Group]) -> list[TrainingSample]:
    """Return one row (training sample) for each turn that has tokens to train on."""
    rows = []
    for group in groups:
        for trajectory in group.trajectories:
            for prompt, turn in zip(trajectory.prompts(), trajectory.turns, strict=True):
                if any(turn.loss_mask):
                    rows.append(training_sample(prompt, [turn], [1.0]))
    return rows


def negative_log_likelihood(scorer: Scorer, rows: Sequence[TrainingSample], *, backward: bool) -> float:
    """Return the mean negative log-likelihood of the response tokens of `rows`, in nats.

    The mean is over the tokens of all rows, so the result does not depend on the split into micro-batches. If
    `backward` is true, add the gradient of this mean to the gradients of the parameters.
    """
    tokens = sum(int(row.mask.sum()) for row in rows)
    total = 0.0
    for batch in micro_batches(rows, _TOKENS_AT_ONCE):
        log_probs, _ = scorer(batch.to(scorer.device), 1.0, "none")
        loss = -log_probs.sum() / tokens
        if backward:
            loss.backward()
        total += float(loss.detach())
    return total


def batches(rows: Sequence[TrainingSample], size: int, seed: int) -> Iterator[list[TrainingSample]]:
    """Yield batches of `size` rows endlessly. Each epoch has a new random order.

    If the last rows of an epoch do not fill a batch, these rows are left out.
    """
    generator = np.random.default_rng(seed)
    size = min(size, len(rows))
    while True:
        order = generator.permutation(len(rows))
        for start in range(0, len(rows) - size + 1, size):
            yield [rows[i] for i in order[start : start + size]]


@dataclass(frozen=True, slots=True)
class _Report:
    """Writes the progress of cloning."""

    progress: Progress | None
    log: Logger | None
    steps_per_epoch: int
    epochs: int

    def on_start(self) -> None:
        if self.progress is not None:
            self.progress.report(0)

    def on_step(self, step: int, loss: float) -> None:
        if self.progress is not None:
            self.progress.report_every(_PROGRESS_EVERY_S, step, message=self._epoch(step), loss=loss)

    def on_validation(self, step: int, loss: float, validation_loss: float) -> None:
        if self.progress is not None:
            self.progress.report(step, message=self._epoch(step), loss=loss, validation_loss=validation_loss)
        if self.log is not None:
            self.log.info("clone", step=step, loss=loss, validation_loss=validation_loss)

    def _epoch(self, step: int) -> str:
        return f"epoch {(step - 1) // self.steps_per_epoch + 1} of {self.epochs}"


def clone(
    model: PreTrainedModel,
    train: Sequence[TrainingSample],
    validation: Sequence[TrainingSample],
    settings: CloneSettings,
    *,
    seed: int,
    progress: Progress | None = None,
    log: Logger | None = None,
) -> CloneResult:
    """Train `model` in place. At the end, load the weights with the lowest validation loss into `model`.

    `train`, `validation`: the rows (training samples) of the two files. `seed`: the seed of the order of the rows.

    Raises:
        CloneError: a loss or a gradient is not finite.
    """
    started = time.monotonic()
    per_epoch = max(1, len(train) // settings.batch_rows)
    validate_every = max(settings.min_validation_steps, per_epoch)
    limit = settings.max_epochs * per_epoch
    scorer = Scorer(model).to(torch.device(settings.torch_device()))
    optimizer = adamw(model.parameters(), settings.lr, (0.9, 0.95), settings.weight_decay)
    best_loss, best_step, best_weights, misses = math.inf, 0, copy.deepcopy(model.state_dict()), 0
    report = _Report(progress, log, per_epoch, settings.max_epochs)
    report.on_start()
    step = 0
    for batch in batches(train, settings.batch_rows, seed):
        share = lr_multiplier(step, settings.warmup_steps, step / limit, settings.min_lr_ratio)
        set_rate(optimizer, settings.lr * share)
        step += 1
        loss = _update(scorer, optimizer, batch, settings.gradient_clip, step)
        if step % validate_every and step < limit:
            report.on_step(step, loss)
            continue
        with torch.no_grad():
            validation_loss = negative_log_likelihood(scorer, validation, backward=False)
        _check_finite(step, validation_loss=validation_loss)
        report.on_validation(step, loss, validation_loss)
        misses = 0 if validation_loss < best_loss - settings.min_improvement else misses + 1
        if validation_loss < best_loss:
            best_loss, best_step, best_weights = validation_loss, step, copy.deepcopy(model.state_dict())
        if misses >= settings.patience or step >= limit:
            break
    model.load_state_dict(best_weights)
    return CloneResult(
        steps=step,
        epochs=step / per_epoch,
        turns=len(train),
        validation_loss=best_loss,
        best_step=best_step,
        stopped="validation" if misses >= settings.patience else "max_epochs",
        seconds=time.monotonic() - started,
    )


def _update(
    scorer: Scorer, optimizer: torch.optim.Optimizer, batch: Sequence[TrainingSample], gradient_clip: float, step: int
) -> float:
    """Take one optimiser step on `batch`. Returns the loss before the step."""
    optimizer.zero_grad(set_to_none=True)
    loss = negative_log_likelihood(scorer, batch, backward=True)
    norm = float(torch.nn.utils.clip_grad_norm_(scorer.parameters(), gradient_clip))
    _check_finite(step, loss=loss, gradient_norm=norm)
    optimizer.step()
    return loss


def _check_finite(step: int, **values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise CloneError(f"cloning: {name.replace('_', ' ')} is {value} at step {step}: lower [clone] lr")
