"""The training loop: collect, score, learn, record, save, acknowledge, push.

A crash at any time is harmless, because each step keeps this order:

1. The record (the metrics) of a step is written before the checkpoint of that step.
2. A stream entry contains one group of episodes. The entry is acknowledged only after a durable checkpoint contains the
   outcome of the group.
3. The version directory (the files with the new weights) is complete before a policy server loads it.

An update is applied only if its loss and gradient are finite. Weights are written and pushed only if they are finite.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from arlarena.client.weights import PushError
from arlarena.proto.streams.connection import TrainerLeaseLost
from arlarena.proto.streams.queue import StreamError
from arlarena.proto.streams.trainer_lease import TrainerLease
from arlarena.proto.telemetry import Logger
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import write_groups
from arlarena.trainer.batching.scoring import NotFinite, ScoredGroup, minibatches, score, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.collector import Collected, CollectionProgress, Collector, Interrupted, RunError
from arlarena.trainer.learning.coordinator import Coordinator
from arlarena.trainer.learning.learner import Learner, first_not_finite
from arlarena.trainer.learning.optimizer import lr_multiplier
from arlarena.trainer.metrics.behaviour import action_flows
from arlarena.trainer.metrics.diagnostics import (
    MetricsFile,
    episode_metrics,
    selection_metrics,
    training_metrics,
)
from arlarena.trainer.metrics.progress import Progress
from arlarena.trainer.metrics.recorder import StepRecorder
from arlarena.trainer.metrics.step_alarms import StepAlarms
from arlarena.trainer.metrics.trackers import Trackers
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.state.checkpoint import Checkpoints, TrainerState
from arlarena.trainer.state.ending import EndedBy, Ending, EndingFile
from arlarena.trainer.weights.probe import Probe
from arlarena.trainer.weights.push import Publisher, PushResult
from arlarena.trainer.weights.versions import Version, VersionStore


@dataclass(slots=True)
class Trainer:
    """Runs the training loop. `state` is shared with the collector and saved in checkpoints.

    `guard` is called before each attempt to push weights. It raises an exception if the trainer must stop or has lost
    its lease.
    """

    settings: TrainerSettings
    state: TrainerState
    learner: Learner | Coordinator
    collector: Collector
    lease: TrainerLease
    versions: VersionStore
    probe: Probe
    publisher: Publisher
    checkpoints: Checkpoints
    metrics: MetricsFile
    flows: MetricsFile
    trackers: Trackers
    recorder: StepRecorder
    alarms: StepAlarms
    progress: Progress
    run: Path
    seed: int
    log: Logger
    guard: Callable[[], None]
    pushed: PushResult | None = None
    version: Version | None = None  # version of the current weights; None after an update, until the next `publish`

    async def train(self, *, resumed: bool) -> None:
        """Train until `steps`, `max_minutes` or `max_environment_steps` is reached. Write the reason to training.json.

        `resumed`: whether a checkpoint was restored before this call.

        Raises:
            Interrupted, RunError, StreamError, PushError, OSError: a signal arrived, or the run cannot continue. Before
                the exception is raised again, the trainer tries to save a checkpoint, and writes the reason to
                training.json.
            TrainerLeaseLost: the lease is lost. Nothing is written, because another trainer may be writing to the run
                directory.
        """
        self.collector.free_broker_memory, self.collector.on_progress = self.free_broker_memory, self._show_collecting
        ending = EndingFile(self.run)
        ending.clear()
        try:
            await self._train(resumed=resumed)
        except TrainerLeaseLost:
            raise
        except (Interrupted, RunError, StreamError, PushError, OSError) as error:
            await self._save_before_end()
            ended_by: EndedBy = "signal" if isinstance(error, Interrupted) else "error"
            ending.write(Ending(ended_by, self.state.step, self.settings.steps, detail=str(error)))
            raise
        ending.write(self.ending())

    async def _train(self, *, resumed: bool) -> None:
        version = await self.publish()
        if resumed:
            await self.collector.resume()
        self.progress.report(self.state.step, limits=self.limits())
        recorded = time.monotonic()
        while not self.finished():
            started = time.monotonic()
            collected = await self.collector.batch()
            self.progress.report_current(self.state.step + 1, "learning", groups=len(collected.selected.batch))
            groups, metrics, skipped_groups = self.learn(collected, version)
            self.collector.settle(collected, skipped_groups)
            self.state.step += 1
            now = time.monotonic()
            self.state.seconds += now - started
            # The record is written before the checkpoint. A resumed run removes the records after its checkpoint, so
            # each step has exactly one record.
            self.record(collected, groups, metrics, now - recorded)
            recorded = now
            self._check_skipped_steps(metrics, skipped_groups)
            version = await self.publish()
        self.trackers.close()
        self.publisher.close()
        self.log.info("trained", steps=self.state.step, **self.state.ledger.counts())

    def done(self) -> float:
        """Return the completed share of the run: the largest of (steps taken / `steps`) and the shares in `limits`."""
        return max(self.state.step / self.settings.steps, *self.limits().values(), 0.0)

    def limits(self) -> dict[str, float]:
        """Return the used share of `max_minutes` and of `max_environment_steps`, if they are set."""
        settings, state, shares = self.settings, self.state, dict[str, float]()
        if settings.max_minutes is not None:
            shares["max_minutes"] = state.seconds / (60 * settings.max_minutes)
        if settings.max_environment_steps is not None:
            shares["max_environment_steps"] = state.environment_steps / settings.max_environment_steps
        return shares

    def finished(self) -> bool:
        """True if all steps are taken or a limit is reached."""
        return self.done() >= 1.0

    def ending(self) -> Ending:
        """Return why a finished run ended: all steps were taken, or a limit was reached."""
        step, settings = self.state.step, self.settings
        if step >= settings.steps:
            return Ending("steps", step, settings.steps)
        if self.limits().get("max_minutes", 0.0) >= 1.0:
            return Ending("max_minutes", step, settings.steps, settings.max_minutes)
        return Ending("max_environment_steps", step, settings.steps, settings.max_environment_steps)

    def _show_collecting(self, so_far: CollectionProgress) -> None:
        self.progress.report_current(self.state.step + 1, "collecting", **asdict(so_far))

    def learn(
        self, collected: Collected, version: Version
    ) -> tuple[list[ScoredGroup], dict[str, float], frozenset[str]]:
        """Score the batch, split it into minibatches, and take one optimiser step on each minibatch.

        `version`: the version of the weights before the first of these steps.

        Returns the scored groups, the metrics of this training step, and the ids of the groups in updates that were not
        applied. If `score` raises NotFinite, no optimiser step is taken. The first two results are then empty, and the
        third result contains the ids of all groups.
        """
        settings, step = self.settings, self.state.step
        self.recorder.start(step + 1, collected, version.version)
        try:
            groups = self.score(collected)
        except NotFinite as error:
            self.log.error("step_skipped", step=step + 1, reason=str(error))
            skipped = frozenset(group.id for group in collected.selected.batch)
            self.recorder.keep([], [], skipped, str(error))
            return [], {}, skipped
        divided = minibatches(groups, settings.minibatch_groups, seed=self.seed * 1_000_003 + step)
        growing, digest = settings.rows == "episodes", version.version.digest
        parts = [(part, training_samples(part, digest, settings.advantage_scale, growing=growing)) for part in divided]
        parts = [(part, rows) for part, rows in parts if rows]
        share = lr_multiplier(step, settings.lr_warmup_steps, self.done(), settings.min_lr_ratio)
        metrics = {"rows": float(sum(len(rows) for _, rows in parts))}
        self.version = None
        recorded = self.recorder.trajectories([part for part, _ in parts])
        metrics |= self.learner.update([rows for _, rows in parts], settings.lr * share, recorded)
        skipped_groups = [scored.group.id for number in self.learner.skipped_minibatches for scored in parts[number][0]]
        if skipped_groups:
            reason = "loss or gradient is not finite"
            self.log.error("updates_skipped", step=step + 1, updates=metrics["updates_skipped"], reason=reason,
                           groups=sorted(skipped_groups))  # fmt: skip
        self.recorder.keep(parts, self.learner.row_figures, skipped_groups, "loss or gradient is not finite")
        return groups, metrics, frozenset(skipped_groups)

    def score(self, collected: Collected) -> list[ScoredGroup]:
        """Compute advantages over complete groups.

        A member (episode) is marked as not usable if it is stale. With `no_action_turns = "mask"`, a member that has a
        turn without an action is also not usable. The rewards of these members still count in the mean and standard
        deviation of the group.

        Raises:
            NotFinite: a reward, entropy or advantage is not finite.
        """
        settings = self.settings
        return score(
            self.learner.recipe,
            sorted(collected.selected.batch, key=lambda group: group.id),
            self.staleness_policy(),
            invalid_penalty=settings.invalid_penalty,
            max_response_tokens=settings.max_response_tokens,
            entropy_fn=self.learner.mean_entropies,
            no_action_turns=settings.no_action_turns,
            growing=settings.rows == "episodes",
        )

    def _check_skipped_steps(self, metrics: dict[str, float], skipped_groups: frozenset[str]) -> None:
        """Count consecutive steps in which all updates were skipped.

        A step without rows has no update, and does not change the count.

        Raises:
            RunError: the count has reached `max_skipped_steps`.
        """
        if metrics.get("updates_applied"):
            self.state.skipped_steps = 0
        elif skipped_groups:
            self.state.skipped_steps += 1
        if self.state.skipped_steps >= self.settings.max_skipped_steps:
            raise RunError(
                f"{counted(self.state.skipped_steps, 'step')} in a row without a finite loss and gradient; groups of "
                f"the last step: {', '.join(sorted(skipped_groups))}. Either lower [trainer] lr or [trainer] "
                f"gradient_clip, or examine recorded groups with `arlarena replay`",
                permanent=True,
            )

    async def publish(self) -> Version:
        """Write the current weights, save a checkpoint if one is due, push the weights, and issue new tasks.

        Returns the written version of the weights.

        New tasks are issued last, for two reasons. First, the memory of the broker may be full until `save` has
        acknowledged entries. Second, a group that starts before the push would be one step older. At the end of the run
        no tasks are issued, and open tasks are withdrawn.
        """
        self.lease.check()
        weights = self._finite_weights()
        version = self.versions.write(
            self.learner.policy, weights, self.state.step, lambda: self.probe.compute(self.learner.log_probs)
        )
        self.version = version
        self.state.versions[version.version.digest] = self.state.step
        if self.finished():
            await self.collector.withdraw_open()
        if self.state.step % self.settings.checkpoint_every == 0 or self.finished():
            await self.save(weights)
        self.pushed = await self.publisher.push(version, self.guard)
        self.versions.forget_old()
        if not self.finished():
            await self.collector.top_up()
        return version

    async def save(self, weights: dict[str, Tensor] | None = None) -> None:
        """Write a checkpoint of the current state. Then acknowledge the stream entries of all groups with an outcome.

        `weights`: the current weights; None: read the weights from the learner.

        Raises:
            TrainerLeaseLost: another trainer has the lease of the run.
            RunError: weights or optimiser state are not finite.
            OSError, StreamError: a file cannot be written, or the broker does not acknowledge the entries.
        """
        self.lease.check()
        optimizer = self._finite("optimiser state", self.learner.optimizer_state())
        written = None if self.version is None else self.version.weights_file
        self.checkpoints.save(self.state, weights or self._finite_weights(), optimizer, written)
        await self.collector.acknowledge()

    async def free_broker_memory(self) -> None:
        """If a received group has an outcome, save a checkpoint and acknowledge the stream entry of the group.

        The broker then deletes the entry.
        """
        if any(group in self.state.ledger.lineage for group in self.collector.consumed):
            await self.save()

    async def _save_before_end(self) -> None:
        """Save a checkpoint after an error or a signal.

        If saving fails, the failure is logged and not raised, because the caller raises the earlier error. A lost lease
        still raises `TrainerLeaseLost`.
        """
        try:
            await self.save()
        except TrainerLeaseLost:
            raise
        except (StreamError, RunError, OSError) as error:
            self.log.error("not_saved", step=self.state.step, reason=str(error))
        else:
            self.log.info("saved", step=self.state.step)

    def _finite_weights(self) -> dict[str, Tensor]:
        """Return the policy's weights. Raises RunError if a weight is not finite."""
        return self._finite("weights", self.learner.weights())

    def _finite(self, kind: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `tensors` unchanged.

        Raises:
            RunError: a tensor has a value that is NaN or infinite.
        """
        name = first_not_finite(tensors)
        if name is not None:
            raise RunError(
                f"{kind}: {name} is not finite at step {self.state.step}, and was not written or pushed; either start "
                f"from a policy with finite weights, or resume from the newest checkpoint with a lower [trainer] lr",
                permanent=True,
            )
        return tensors

    def record(
        self, collected: Collected, groups: list[ScoredGroup], learning: dict[str, float], seconds: float
    ) -> None:
        """Write the metrics and the group records of the step. Every `record_groups_every` steps, also write the batch.

        `groups` and `learning`: the scored groups and the metrics that `learn` returned. `seconds`: time since the
        record of the previous step.
        """
        self.lease.check()
        step, selected = self.state.step, collected.selected
        metrics = episode_metrics(collected.seen) | training_metrics(groups, self.staleness_policy(step - 1)) | learning
        metrics |= selection_metrics(selected) | {
            "groups_stale": len(collected.stale),
            "seconds": seconds,
            "collect_seconds": collected.seconds,
            "tokens_per_s": metrics["tokens"] / seconds,
        }
        metrics |= self.alarms.count(metrics, selected.batch)
        if self.pushed is not None:  # the push before this step
            metrics |= {"push_seconds": self.pushed.seconds, "push_bytes": self.pushed.sent}
            metrics["probe_difference"] = self.pushed.difference
        totals = {f"total_{name}": count for name, count in self.state.ledger.counts().items()}
        progress = {"environment_steps": self.state.environment_steps, "run_seconds": self.state.seconds}
        self.metrics.append({"step": step} | progress | metrics | totals)
        self.flows.append({"step": step} | action_flows(collected.seen))
        self.trackers.add(progress | metrics | totals, step)
        self.progress.report(
            step, limits=self.limits(), success=metrics["success_rate"], tokens_per_s=metrics["tokens_per_s"]
        )
        self.alarms.log(step, metrics)
        self.recorder.write(step, collected, groups, self.staleness_policy(step - 1))
        if self.settings.record_groups_every and step % self.settings.record_groups_every == 0:
            folder = self.run / "groups"
            folder.mkdir(exist_ok=True)
            write_groups(folder / f"step-{step:06d}.msgpack", selected.batch)

    def staleness_policy(self, step: int | None = None) -> StalenessPolicy:
        """Return the staleness policy at `step`. The default is the current step."""
        return StalenessPolicy(self.state.step if step is None else step, self.settings.staleness, self.state.versions)
