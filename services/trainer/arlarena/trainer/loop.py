"""The training loop: collect, score, learn, save, push, acknowledge.

The order of a step is what makes a crash harmless. The record is written before the checkpoint that keeps it; weights
and checkpoint are durable before the new policy samples a single token; and entries of the stream are acknowledged only
once a checkpoint accounts for their groups (design, section 3).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import write_groups
from arlarena.trainer.behaviour import action_flows
from arlarena.trainer.board import Board
from arlarena.trainer.checkpoint import Checkpoints, TrainerState
from arlarena.trainer.collector import Collected, Collector
from arlarena.trainer.diagnostics import MetricsFile, episode_figures, training_figures
from arlarena.trainer.ensemble import Lead
from arlarena.trainer.learner import Learner
from arlarena.trainer.optim import rate_share
from arlarena.trainer.probe import Probe
from arlarena.trainer.progress import Progress
from arlarena.trainer.publisher import Publisher, Pushed
from arlarena.trainer.scoring import Freshness, ScoredGroup, minibatches, rows_of, score
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.versions import Version, VersionStore


@dataclass(slots=True)
class Trainer:
    """Everything that a step touches. `state` is shared with the collector and is what a checkpoint holds."""

    settings: TrainerSettings
    state: TrainerState
    learner: Learner | Lead
    collector: Collector
    versions: VersionStore
    probe: Probe
    publisher: Publisher
    checkpoints: Checkpoints
    metrics: MetricsFile
    flows: MetricsFile
    board: Board
    progress: Progress
    run: Path
    seed: int
    log: Logger
    pushed: Pushed | None = None

    async def train(self, *, resumed: bool) -> None:
        """Train until `steps` are taken or `max_minutes` are over."""
        version = await self.publish()
        if resumed:
            await self.collector.resume()
        recorded = time.monotonic()
        while not self.finished():
            started = time.monotonic()
            collected = await self.collector.batch()
            groups = self.score(collected)
            figures = self.learn(groups, version)
            self.collector.settle(collected)
            self.state.step += 1
            now = time.monotonic()
            self.state.seconds += now - started
            # Before the checkpoint, without which a resumed run forgets the record: so each step has exactly one.
            self.record(collected, groups, figures, now - recorded)
            recorded = now
            version = await self.publish()
            await self.collector.acknowledge()
        await self.close()

    def done(self) -> float:
        """The share of the run that is over: of its steps, its time or its experience, whichever is furthest."""
        settings, state = self.settings, self.state
        shares = [state.step / settings.steps]
        if settings.max_minutes is not None:
            shares.append(state.seconds / (60 * settings.max_minutes))
        if settings.max_environment_steps is not None:
            shares.append(state.environment_steps / settings.max_environment_steps)
        return max(shares)

    def finished(self) -> bool:
        """Whether the run has had its steps, its time or its experience."""
        return self.done() >= 1.0

    def score(self, collected: Collected) -> list[ScoredGroup]:
        """Advantages over whole groups; stale and void members are marked, not yet dropped."""
        return score(
            self.learner.recipe,
            collected.selected.batch,
            self.freshness(),
            invalid_penalty=self.settings.invalid_penalty,
            max_response_tokens=self.settings.max_response_tokens,
            measure=self.learner.mean_entropies,
            void_turns=self.settings.void_turns,
        )

    def learn(self, groups: list[ScoredGroup], version: Version) -> dict[str, float]:
        """Deal the groups into minibatches and take one optimiser step on each."""
        settings, digest = self.settings, version.version.digest
        dealt = minibatches(groups, settings.minibatch_groups, seed=self.seed * 1_000_003 + self.state.step)
        growing = settings.rows == "episodes"
        rows = [rows_of(part, digest, settings.advantage_scale, growing=growing) for part in dealt]
        share = rate_share(self.state.step, settings.lr_warmup_steps, self.done(), settings.final_lr_share)
        return self.learner.update([part for part in rows if part], settings.lr * share)

    async def publish(self) -> Version:
        """Make the present weights durable, then let them sample.

        New tasks are issued only then: a group that began just before a push would be a step older for nothing.
        """
        weights = self.learner.weights()
        version = self.versions.write(
            self.learner.policy, weights, self.state.step, lambda: self.probe.of(self.learner.log_probs)
        )
        self.state.versions[version.version.digest] = self.state.step
        if self.state.step % self.settings.checkpoint_every == 0 or self.finished():
            self.checkpoints.save(self.state, weights, self.learner.optimizer_state())
        self.pushed = await self.publisher.push(version)
        self.versions.forget_old()
        if not self.finished():
            await self.collector.top_up()
        return version

    def record(
        self, collected: Collected, groups: list[ScoredGroup], learning: dict[str, float], seconds: float
    ) -> None:
        """Write the step's figures, and now and then its groups. `seconds`: since the last record."""
        step, selected = self.state.step, collected.selected
        figures = episode_figures(collected.seen) | training_figures(groups, self.freshness(step - 1)) | learning
        figures |= {
            "groups_kept": selected.kept,
            "groups_filtered": len(selected.filtered),
            "groups_backfilled": selected.backfilled,
            "groups_stale": collected.stale,
            "seconds": seconds,
            "collect_seconds": collected.seconds,
            "tokens_per_s": figures["tokens"] / seconds,
        }
        if self.pushed is not None:  # the push before this step: the one after it is still to come
            figures |= {"push_seconds": self.pushed.seconds, "push_bytes": self.pushed.sent}
            figures["probe_difference"] = self.pushed.difference
        totals = {f"total_{name}": count for name, count in self.state.ledger.counts().items()}
        progress = {"environment_steps": self.state.environment_steps, "run_seconds": self.state.seconds}
        self.metrics.append({"step": step} | progress | figures | totals)
        self.flows.append({"step": step} | action_flows(collected.seen))
        self.board.add(progress | figures | totals, step)
        self.progress.report(
            step, share=self.done(), success=figures["success_rate"], tokens_per_s=figures["tokens_per_s"]
        )
        if figures["mismatch_k3"] > self.settings.mismatch_alarm:
            self.log.warning("mismatch", step=step, mean_k3=figures["mismatch_k3"], max=figures["mismatch_max"])
        if self.settings.record_groups_every and step % self.settings.record_groups_every == 0:
            folder = self.run / "groups"
            folder.mkdir(exist_ok=True)
            write_groups(folder / f"step-{step:06d}.msgpack", selected.batch)

    def freshness(self, step: int | None = None) -> Freshness:
        """Which samples count as fresh at `step` (now)."""
        return Freshness(self.state.step if step is None else step, self.settings.staleness, self.state.versions)

    async def close(self) -> None:
        """Account for what was issued and is not needed any more, and leave a last checkpoint that says so."""
        for group in list(self.state.ledger.open):
            self.state.ledger.settle(group, "unused", self.state.step)
        self.checkpoints.save(self.state, self.learner.weights(), self.learner.optimizer_state())
        await self.collector.acknowledge()
        self.board.close()
        self.publisher.close()
        self.log.info("trained", steps=self.state.step, **self.state.ledger.counts())
