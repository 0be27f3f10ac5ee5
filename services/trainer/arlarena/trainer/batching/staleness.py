"""Decides whether a sample is too old to be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arlarena.proto.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class StalenessPolicy:
    """Decides which samples may be trained on at `step`.

    Attributes:
        step: version of the policy that the next optimiser step starts from.
        staleness: the largest permitted age of a sample, in steps.
        known: step by digest, for every version in the history of this run. Samples with other digests come from a
            policy that was lost in a crash, and count as stale.
    """

    step: int
    staleness: int
    known: Mapping[str, int]

    def age(self, trajectory: Trajectory) -> int | None:
        """Steps since the oldest version that sampled a token of it; None if a version is unknown."""
        steps = [self.known.get(span.version.digest) for turn in trajectory.turns for span in turn.spans]
        known = [step for step in steps if step is not None]
        return None if len(known) < len(steps) or not known else self.step - min(known)

    def usable(self, trajectory: Trajectory) -> bool:
        """Whether `trajectory` may be trained on."""
        age = self.age(trajectory)
        return age is not None and age <= self.staleness
