"""Records groups with the figures that the loss used: `RUN/records/step-NNNNNN.records`.

Every `record_groups_every`-th step is recorded completely. At each of the other steps, `record_sample_groups` groups
are recorded. The folder has at most `record_mb` MB. If a new file does not fit, old files are deleted, first those of
steps that were not recorded completely. `proto.records.group_records` defines the format.

After an error of the file system, a warning is logged, the step is not recorded, and the run continues.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from arlarena.proto.records.group_records import (
    FOLDER,
    GroupRecord,
    GroupStatus,
    MemberRecord,
    MemberStatus,
    StepRecord,
    TurnFigures,
    encode_frame,
    record_path,
    write_records,
)
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import Group, PolicyVersion, Trajectory
from arlarena.trainer.batching.packing import TrainingSample
from arlarena.trainer.batching.scoring import ScoredGroup, has_no_action
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.collector import Collected
from arlarena.trainer.learning.row_figures import RowFigures
from arlarena.trainer.objectives import Recipe
from arlarena.trainer.settings import TrainerSettings

MEGABYTE = 1_000_000
Part = tuple[Sequence[ScoredGroup], Sequence[TrainingSample]]


def usable_members(part: Sequence[ScoredGroup]) -> Iterator[tuple[ScoredGroup, int]]:
    """Yield (group, index of the member) for each usable trajectory, in the order of `TrainingSample.trajectory`."""
    for scored in part:
        yield from ((scored, member) for member, usable in enumerate(scored.usable) if usable)


def collect_figures(
    parts: Sequence[Part], figures: Sequence[Mapping[int, RowFigures]]
) -> dict[tuple[str, int], list[TurnFigures]]:
    """Return the figures of each recorded turn, by (group id, index of the member).

    `parts`: the minibatches, as (groups, rows). `figures`: `Learner.row_figures` after the updates on `parts`.
    """
    found: dict[tuple[str, int], list[TurnFigures]] = {}
    for (part, rows), by_number in zip(parts, figures, strict=True):
        members = list(usable_members(part))
        for row in rows:
            if (recorded := by_number.get(row.number)) is None:
                continue
            scored, member = members[row.trajectory]
            ends = [0]
            for tokens, _ in row.turns:
                ends.append(ends[-1] + tokens)
            sizes = [int(row.mask[first:last].sum()) for first, last in pairwise(ends)]
            found.setdefault((scored.group.id, member), []).extend(recorded.turns(sizes))
    return found


class StepRecorder:
    """Records the groups of each step. In each step, call `start`, `trajectories`, `keep` and `write` in this order."""

    def __init__(self, run: Path, settings: TrainerSettings, recipe: Recipe, seed: int, log: Logger) -> None:
        """`run`: the run directory. No file is created before `write`."""
        self._run, self._settings, self._recipe, self._seed, self._log = run, settings, recipe, seed, log
        self._chosen: frozenset[str] = frozenset()
        self._complete = False
        self._weights = ""
        self._skipped: Collection[str] = ()
        self._skip_reason = ""
        self._figures: dict[tuple[str, int], list[TurnFigures]] = {}
        self._updates: dict[str, int] = {}

    def discard_after(self, step: int) -> None:
        """Delete the files of steps after `step`, because a resumed run takes these steps again."""
        for path in self._files():
            if _step_of(path) > step:
                path.unlink(missing_ok=True)

    def start(self, step: int, collected: Collected, weights: PolicyVersion) -> None:
        """Choose the groups of `step` to record. `weights`: the version of the weights before the step."""
        every = self._settings.record_groups_every
        self._complete = bool(every) and step % every == 0
        self._chosen = frozenset(group.id for group in self._choose(step, collected))
        self._weights, self._skipped, self._skip_reason = str(weights), (), ""
        self._figures, self._updates = {}, {}

    def _choose(self, step: int, collected: Collected) -> list[Group]:
        batch, rest = collected.selected.batch, [*collected.selected.filtered, *collected.stale]
        count = self._settings.record_sample_groups
        if self._complete or count >= len(batch) + len(rest):
            return [*batch, *rest]
        draw = random.Random(f"records/{self._seed}/{step}")
        # At least half of the sampled groups are from the batch, if the batch has enough groups.
        others = min(len(rest), max(count // 2, count - len(batch)))
        return draw.sample(batch, count - others) + draw.sample(rest, others)

    def trajectories(self, parts: Sequence[Sequence[ScoredGroup]]) -> list[list[int]]:
        """Return one list per minibatch: the indices (`TrainingSample.trajectory`) of the trajectories to record."""
        return [
            [number for number, (scored, _) in enumerate(usable_members(part)) if scored.group.id in self._chosen]
            for part in parts
        ]

    def keep(
        self,
        parts: Sequence[Part],
        figures: Sequence[Mapping[int, RowFigures]],
        skipped: Collection[str],
        reason: str,
    ) -> None:
        """Store the figures of the updates, so that `write` can write them.

        `parts` and `figures`: see `collect_figures`. `skipped`: ids of the groups in updates that were not applied.
        `reason`: why the updates were not applied.
        """
        self._skipped, self._skip_reason = frozenset(skipped), reason
        self._figures = collect_figures(parts, figures)
        self._updates = {scored.group.id: number for number, (part, _) in enumerate(parts) for scored in part}

    def write(self, step: int, collected: Collected, scored: Sequence[ScoredGroup], policy: StalenessPolicy) -> None:
        """Write the file of the step. `scored`: the groups of the batch. `policy`: the staleness policy of the step."""
        if not self._chosen:
            return
        try:
            frames = [encode_frame(self._head(step, collected)), *self._groups(step, collected, scored, policy)]
            path = record_path(self._run, step)
            path.parent.mkdir(exist_ok=True)
            if self._make_room(sum(map(len, frames))):
                write_records(path, frames)
        except OSError as error:
            self._log.warning("groups_not_recorded", step=step, reason=str(error))

    def _head(self, step: int, collected: Collected) -> StepRecord:
        recipe, selected = self._recipe, collected.selected
        counts = {"trained": selected.kept, "backfilled": selected.backfilled}
        counts |= {"filtered": len(selected.filtered), "stale": len(collected.stale)}
        return StepRecord(
            step=step,
            weights=self._weights,
            recipe=recipe.name,
            ratio_level=recipe.ratio_level,
            clip_low=recipe.clip_config.clip_low,
            clip_high=recipe.clip_config.clip_high,
            mask_delta=recipe.mask_delta if recipe.mask == "sequence" else None,
            policy_anchor=self._settings.policy_anchor,
            complete=self._complete,
            groups=counts,
        )

    def _groups(
        self, step: int, collected: Collected, scored: Sequence[ScoredGroup], policy: StalenessPolicy
    ) -> Iterator[bytes]:
        by_id, selected = {each.group.id: each for each in scored}, collected.selected
        limit = self._settings.staleness
        filtered = f"filter {self._recipe.filter!r}: the outcomes of the group's episodes give no training signal"
        stale = f"every episode is older than staleness = {limit}"
        kinds: list[tuple[GroupStatus, str, Sequence[Group]]] = [
            ("trained", "", selected.batch[: selected.kept]),
            ("backfilled", "", selected.batch[selected.kept :]),
            ("filtered", filtered, selected.filtered),
            ("stale", stale, collected.stale),
        ]
        for status, reason, groups in kinds:
            for group in groups:
                if group.id not in self._chosen:
                    continue
                given: tuple[GroupStatus, str] = (status, reason)
                if group.id in self._skipped:
                    given = ("skipped", self._skip_reason)
                members = self._members(group, given, by_id.get(group.id), policy)
                yield encode_frame(GroupRecord(group, *given, members, step, self._updates.get(group.id)))

    def _members(
        self, group: Group, outcome: tuple[GroupStatus, str], scored: ScoredGroup | None, policy: StalenessPolicy
    ) -> tuple[MemberRecord, ...]:
        return tuple(
            self._member(group, number, trajectory, outcome, scored, policy)
            for number, trajectory in enumerate(group.trajectories)
        )

    def _member(
        self,
        group: Group,
        number: int,
        trajectory: Trajectory,
        outcome: tuple[GroupStatus, str],
        scored: ScoredGroup | None,
        policy: StalenessPolicy,
    ) -> MemberRecord:
        age = policy.age(trajectory)
        status, reason = self._member_outcome(trajectory, outcome, policy)
        if scored is None:
            return MemberRecord(status, reason, age)
        given, scale = scored.advantages, self._settings.advantage_scale
        return MemberRecord(
            status=status,
            reason=reason,
            age=age,
            episode_advantages=tuple(given.episode[number]),
            step_advantages=tuple(given.step[number]) if given.step else (),
            advantages=tuple(scale * value for value in given.total[number]),
            anchor_sizes=tuple(given.anchor_sizes[number]) if given.anchor_sizes else (),
            turns=tuple(self._figures.get((group.id, number), ())),
        )

    def _member_outcome(
        self, trajectory: Trajectory, outcome: tuple[GroupStatus, str], policy: StalenessPolicy
    ) -> tuple[MemberStatus, str]:
        if not policy.usable(trajectory):
            age = policy.age(trajectory)
            unknown = "sampled by weights of a step that a crash discarded; this run does not know these weights"
            return "stale", unknown if age is None else f"age {age} is above staleness = {policy.staleness}"
        if outcome[0] not in ("trained", "backfilled"):
            return "not_trained", outcome[1]
        if self._settings.no_action_turns == "mask" and has_no_action(trajectory):
            return "no_action", "a turn has no action, and no_action_turns = 'mask'"
        return "trained", ""

    def _files(self) -> list[Path]:
        return sorted((self._run / FOLDER).glob("step-*.records"))

    def _make_room(self, size: int) -> bool:
        """Delete old files until `size` more bytes fit. Returns False if `size` alone is above the limit."""
        limit = int(self._settings.record_mb * MEGABYTE)
        if size > limit:
            reason = f"the step has {size} bytes of records, more than [trainer] record_mb allows"
            self._log.warning("groups_not_recorded", reason=reason, limit=limit)
            return False
        every = self._settings.record_groups_every
        files = {path: path.stat().st_size for path in self._files()}
        excess = sum(files.values()) + size - limit
        if excess <= 0:
            return True
        # Files of completely recorded steps are deleted last.
        for path in sorted(files, key=lambda path: (bool(every) and _step_of(path) % every == 0, path)):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= files[path]
        return True


def _step_of(path: Path) -> int:
    """Return the step in the name of a file; 0 if the name has no step."""
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
