"""When a sample is too old to be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arlarena.proto.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class StalenessPolicy:
    """Which samples may be trained on at `step`.

    Attributes:
        step: the optimiser step about to be taken, whose policy has version `step`.
        staleness: how many steps behind a sample may be.
        known: step by digest, of every version that belongs to this run's history. Samples of other digests were
            drawn by a policy that a crash erased, and count as stale.
    """

    step: int
    staleness: int
    known: Mapping[str, int]

    def age(self, trajectory: Trajectory) -> int | None:
        """Steps between the oldest weights that sampled a token of it and now; None if unknown weights took part."""
        steps = [self.known.get(span.version.digest) for turn in trajectory.turns for span in turn.spans]
        known = [step for step in steps if step is not None]
        return None if len(known) < len(steps) or not known else self.step - min(known)

    def usable(self, trajectory: Trajectory) -> bool:
        """Whether it may be trained on."""
        age = self.age(trajectory)
        return age is not None and age <= self.staleness
