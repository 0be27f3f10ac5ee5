"""Logs a warning for each problem of a training step. The page and `arlarena report` show the warnings as alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import Group
from arlarena.trainer.batching.scoring import returns
from arlarena.trainer.metrics.diagnostics import not_finite
from arlarena.trainer.objectives.filtering import mixed_return
from arlarena.trainer.settings import TrainerSettings

UNIFORM = (
    "in every group all members have equal returns, so the returns give no training signal; the policy can change only "
    "through penalties, different rewards per turn, the KL term and the entropy bonus; do one of the following: change "
    "the tasks, start from a better policy, raise [trainer] group_size, or raise [trainer] temperature"
)


def zero_gradient_reason(metrics: Mapping[str, float], settings: TrainerSettings) -> str:
    """Return the likely reasons for a gradient of 0, and the settings to change. `metrics`: the metrics of the step."""
    reasons = []
    if not metrics.get("rows"):
        reasons.append("the step had no rows to train on: see groups_filtered, groups_stale and no_action_share")
    if (uniform := metrics.get("solve_all", 0.0) + metrics.get("solve_none", 0.0)) > 0:
        reasons.append(
            f"in {uniform:.0%} of the groups all members or no members solved the task: change the tasks, start from "
            f"a better policy, raise [trainer] group_size = {settings.group_size}, or raise [trainer] temperature"
        )
    if not metrics.get("advantage_abs"):
        reasons.append(f"every advantage was 0: see the advantage, filter and backfill of recipe = {settings.recipe!r}")
    if not settings.advantage_scale:
        reasons.append("[trainer] advantage_scale = 0 turns the advantages off")
    if not metrics.get("learning_rate", 1.0):
        reasons.append("the learning rate is also 0: see [trainer] lr and [trainer] min_lr_ratio")
    return "the policy does not learn; " + ("; ".join(reasons) or "examine recorded groups with `arlarena replay`")


class StepAlarms:
    """Counts problems over consecutive steps of this process, and logs warnings."""

    def __init__(self, settings: TrainerSettings, log: Logger) -> None:
        """Start with counts of 0."""
        self._settings, self._log = settings, log
        self.zero_gradients = 0  # consecutive steps with a gradient of exactly 0
        self.uniform_steps = 0  # consecutive steps in which all members of each group have equal returns

    def count(self, metrics: Mapping[str, float], batch: Sequence[Group]) -> dict[str, float]:
        """Update the counts from the metrics and the batch of a step. Returns the metric `zero_gradient_steps`.

        If the step has no gradient, the count of zero gradients does not change, and the result is empty.
        """
        differ = any(mixed_return(returns(group), None) for group in batch)
        self.uniform_steps = 0 if differ else self.uniform_steps + 1
        if "grad_norm" not in metrics:
            return {}
        self.zero_gradients = self.zero_gradients + 1 if metrics["grad_norm"] == 0 else 0
        return {"zero_gradient_steps": float(self.zero_gradients)}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log a warning for each problem of a step.

        The problems are:

        - A metric is not finite.
        - The mismatch between sampler and trainer is above `mismatch_alarm`.
        - The gradient was exactly 0 in `zero_gradient_alarm` consecutive steps.
        - In `zero_gradient_alarm` consecutive batches, all members of each group had equal returns. This warning is
          left out if the step has the warning about the gradient.
        """
        if names := not_finite(metrics):
            self._log.warning("not_finite", step=step, figures=names)
        mean_k3 = metrics.get("mismatch_k3", 0.0)
        if not mean_k3 <= self._settings.mismatch_alarm:  # also true for NaN
            self._log.warning("mismatch", step=step, mean_k3=mean_k3, max=metrics.get("mismatch_max"))
        alarm = self._settings.zero_gradient_alarm
        if alarm and self.zero_gradients and self.zero_gradients % alarm == 0:
            reason = zero_gradient_reason(metrics, self._settings)
            self._log.warning("zero_gradient", step=step, steps=self.zero_gradients, reason=reason)
        elif alarm and self.uniform_steps and self.uniform_steps % alarm == 0:
            self._log.warning("uniform_groups", step=step, steps=self.uniform_steps, reason=UNIFORM)
