"""Dimension four of ARLArena (arXiv 2602.21534), dynamic trajectory filtering: which groups are worth a step.

The rule `success`, 0 < solved < G, is the constraint of DAPO's objective (arXiv 2503.14476) and of SAMPO's.

A rule is a pure predicate on the outcomes of one group; `Selection` is the small state machine that the trainer drives
while it fills a batch. Neither duplicates a group to fill a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from arlarena.trainer.objectives.registry import Registry

# Returns are sums of rewards: equal returns added up in different orders differ by a few units in the last place.
RETURN_TOLERANCE = 1e-9

Item = TypeVar("Item")


# A rule gets the returns of a group's trajectories, and their successes where the environment defines them.
FILTERS: Registry[Callable[[Sequence[float], Sequence[bool] | None], bool]] = Registry("filter")
register_filter = FILTERS.register


@register_filter("none")
def anything(_returns: Sequence[float], _successes: Sequence[bool] | None) -> bool:
    """Keep every group."""
    return True


@register_filter("success")
def mixed_success(_returns: Sequence[float], successes: Sequence[bool] | None) -> bool:
    """0 < #success < G, the paper's rule."""
    if successes is None:
        raise ValueError("filter 'success' needs successes; use filter 'return' where success is not defined")
    return 0 < sum(map(bool, successes)) < len(successes)


@register_filter("return")
def mixed_return(returns: Sequence[float], _successes: Sequence[bool] | None) -> bool:
    """Raw returns not all equal, the release's rule. Where returns count steps, it drops almost nothing."""
    return len(returns) > 0 and max(returns) - min(returns) > RETURN_TOLERANCE


class Verdict(Enum):
    """What became of an offered group. A dropped one may still come back as back-fill."""

    KEPT = "kept"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Selected(Generic[Item]):
    """A closed selection.

    Attributes:
        batch: the groups to train on: those kept, in order of arrival, then those back-filled, newest first.
        filtered: dropped groups that stay dropped, in order of arrival.
        kept: how many of `batch` passed the filter; the other `backfilled` did not.
        backfilled: how many uniform groups fill up the batch.
    """

    batch: list[Item]
    filtered: list[Item]
    kept: int
    backfilled: int


class Selection(Generic[Item]):
    """Fills one batch with useful groups, giving up after `max_tries` rounds of `wanted` groups.

    Drive it so: while not `is_full()`, `offer` each complete group that arrives; then `close`.
    """

    def __init__(self, rule: str, wanted: int, *, max_tries: int = 3, backfill: bool = True) -> None:
        """Start an empty batch of `wanted` groups under `rule`.

        Raises:
            ValueError: unknown rule, or a size that is not positive.
        """
        if rule not in FILTERS:
            raise ValueError(f"unknown filter {rule!r}; one of {', '.join(FILTERS)}")
        if wanted < 1 or max_tries < 1:
            raise ValueError(f"a selection wants at least one group and one try, not {wanted} and {max_tries}")
        self._useful = FILTERS[rule]
        self._wanted, self._budget, self._backfill = wanted, wanted * max_tries, backfill
        self._kept: list[Item] = []
        self._dropped: list[Item] = []

    @property
    def kept(self) -> int:
        """Groups that passed the filter so far."""
        return len(self._kept)

    @property
    def left(self) -> int:
        """How many more groups may be judged, all of them dropped."""
        return self._budget - self.kept - self.dropped

    @property
    def dropped(self) -> int:
        """Groups that did not."""
        return len(self._dropped)

    def offer(self, item: Item, returns: Sequence[float], successes: Sequence[bool] | None = None) -> Verdict:
        """Judge one group by the outcomes of **all** its trajectories, stale ones included.

        Raises:
            RuntimeError: the selection is full; leave the group for the next one.
        """
        if self.is_full():
            raise RuntimeError(f"the batch is full ({self.kept} kept, {self.dropped} dropped); offer to the next one")
        useful = self._useful(returns, successes)
        (self._kept if useful else self._dropped).append(item)
        return Verdict.KEPT if useful else Verdict.DROPPED

    def is_full(self) -> bool:
        """Whether sampling may stop: enough useful groups, or all tries used up."""
        return self.kept >= self._wanted or self.kept + self.dropped >= self._budget

    def close(self) -> Selected[Item]:
        """The batch as it stands, back-filled with the newest (least stale) uniform groups if that was asked for."""
        missing = min(self._wanted - self.kept, self.dropped) if self._backfill else 0
        split = self.dropped - missing
        fill = self._dropped[split:][::-1]
        return Selected(batch=self._kept + fill, filtered=self._dropped[:split], kept=self.kept, backfilled=len(fill))


def rule_at(rule: str, step: int, cold_start_steps: int) -> str:
    """The rule of optimiser step `step` (from 0): none during the cold start, when all-fail groups teach the format."""
    return "none" if step < cold_start_steps else rule
