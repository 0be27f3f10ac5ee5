"""Decides whether a sample is too old to be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arlarena.proto.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class StalenessPolicy:
    """Decides which samples may be trained on at `step`.

    Attributes:
        step: the training step of the current weights.
        staleness: the largest permitted age of a sample, in training steps.
        known: the step of every version (weights of one step) of this run, by the digest of the version. Samples of
            other versions count as stale, because a crash discarded the steps that produced these versions.
    """

    step: int
    staleness: int
    known: Mapping[str, int]

    def age(self, trajectory: Trajectory) -> int | None:
        """Return the age of `trajectory`: the training steps since the oldest weights that sampled one of its tokens.

        Returns None if tokens were sampled by a version that is not in `known`, or if there are no sampled tokens.
        """
        steps = [self.known.get(span.version.digest) for turn in trajectory.turns for span in turn.spans]
        known = [step for step in steps if step is not None]
        return None if len(known) < len(steps) or not known else self.step - min(known)

    def usable(self, trajectory: Trajectory) -> bool:
        """True if `trajectory` may be trained on."""
        age = self.age(trajectory)
        return age is not None and age <= self.staleness
